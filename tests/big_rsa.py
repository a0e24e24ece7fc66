"""An RSA key of 16,384 bits, the largest that OpenSSL takes, in a moment: of two primes that RFCs have published."""

from __future__ import annotations

from functools import cache

from cryptography.hazmat.primitives.asymmetric import rsa


@cache
def big_rsa() -> rsa.RSAPrivateKey:
    """The key. Everybody knows it, so it is of use only where its size is what matters."""
    p = 2**8192 - 2**8128 - 1 + 2**64 * (_pi(8062) + 4743158)  # RFC 3526 §7
    q = 2**8192 - 2**8128 - 1 + 2**64 * (_e(8062) + 10965728)  # RFC 7919 appendix A.5
    e = 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(e, p * q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def _pi(bits: int) -> int:
    """The integer part of pi times 2**bits, by Machin's formula."""
    one = 1 << (bits + 64)
    return 4 * (4 * _arctan(5, one) - _arctan(239, one)) >> 64


def _arctan(inverse: int, one: int) -> int:
    term = one // inverse
    total, divisor, sign = term, 3, -1
    while term:
        term //= inverse * inverse
        total += sign * (term // divisor)
        divisor, sign = divisor + 2, -sign
    return total


def _e(bits: int) -> int:
    """The integer part of e times 2**bits."""
    term = 1 << (bits + 64)
    total, number = term, 1
    while term:
        term //= number
        total += term
        number += 1
    return total >> 64
