"""Names that the DNS is asked about and that are no host names."""

import pytest

from postward.errors import InvalidName
from postward.names import Domain


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Bounce+1=A.Example.com.", "bounce+1=a.example.com"),
        ("-x.y-.example", "-x.y-.example"),
        ("a b.example", "a b.example"),
        ("example.com", "example.com"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
    ],
)
def test_a_name_to_ask(text: str, name: str) -> None:
    asked = Domain.to_ask(text)
    assert asked == name
    assert Domain(asked) is asked


@pytest.mark.parametrize("text", ["", ".", "a..b", "x" * 64, "x." * 128, "a\\b.example", "a\nb.example", "ü+.example"])
def test_what_the_dns_cannot_be_asked_about(text: str) -> None:
    with pytest.raises(InvalidName):
        Domain.to_ask(text)
