"""DMARC reports as the field sends them, written from descriptions of them."""

from __future__ import annotations

import base64
import gzip
import io
import zipfile
from collections.abc import Sequence
from email.message import EmailMessage

RFC7489 = """<?xml version="1.0" encoding="UTF-8" ?>
<feedback>
  <report_metadata>
    <org_name>big-mailbox.example</org_name>
    <email>noreply-dmarc@big-mailbox.example</email>
    <extra_contact_info>https://support.big-mailbox.example/dmarc</extra_contact_info>
    <report_id>13987654321098765432</report_id>
    <date_range><begin>1767225600</begin><end>1767311999</end></date_range>
  </report_metadata>
  <policy_published>
    <domain>example.com</domain><adkim>r</adkim><aspf>s</aspf><p>reject</p><sp>quarantine</sp><pct>100</pct><np>reject</np>
  </policy_published>
  {records}
</feedback>
"""
RECORD = """<record>
    <row>
      <source_ip>{ip}</source_ip>
      <count>{count}</count>
      <policy_evaluated><disposition>none</disposition><dkim>pass</dkim><spf>fail</spf></policy_evaluated>
    </row>
    <identifiers><header_from>example.com</header_from></identifiers>
    <auth_results>
      <dkim><domain>example.com</domain><result>pass</result><selector>s1</selector></dkim>
      <spf><domain>bounce.example.com</domain><result>softfail</result></spf>
    </auth_results>
  </record>"""
RFC9990 = """<?xml version="1.0" encoding="UTF-8"?>
<feedback xmlns="urn:ietf:params:xml:ns:dmarc-2.0">
  <version>1.0</version>
  <report_metadata>
    <org_name>Receiver</org_name><email>dmarc@receiver.example</email>
    <extra_contact_info lang="en">see our pages</extra_contact_info>
    <report_id>abc.def@receiver.example</report_id>
    <date_range><begin>1767225600</begin><end>1767311999</end></date_range>
    <error lang="en">one of your rua could not be verified</error>
    <generator>Postward 1</generator>
  </report_metadata>
  <policy_published>
    <domain>example.com</domain><p>reject</p><sp>reject</sp><np>none</np><fo>1:d</fo><adkim>s</adkim><aspf>r</aspf>
    <testing>y</testing><discovery_method>treewalk</discovery_method>
  </policy_published>
  <extension><x:thing xmlns:x="urn:x"><x:count>7</x:count></x:thing></extension>
  <record>
    <row>
      <source_ip>2001:db8::25</source_ip><count>12</count>
      <policy_evaluated>
        <disposition>none</disposition><dkim>fail</dkim><spf>fail</spf>
        <reason><type>mailing_list</type><comment lang="en">list &amp; friends</comment></reason>
        <reason><type>policy_test_mode</type></reason>
      </policy_evaluated>
    </row>
    <identifiers>
      <header_from>example.com</header_from><envelope_from>lists.example.org</envelope_from><envelope_to>receiver.example</envelope_to>
    </identifiers>
    <auth_results>
      <dkim><domain>example.com</domain><selector>s1</selector><result>fail</result>
        <human_result>body changed</human_result></dkim>
      <dkim><domain>lists.example.org</domain><selector>l</selector><result>pass</result></dkim>
      <spf><domain>lists.example.org</domain><scope>mfrom</scope><result>pass</result></spf>
    </auth_results>
    <x:count xmlns:x="urn:x">99</x:count>
  </record>
</feedback>
"""
FEEDBACK = (
    "Feedback-Type: auth-failure\r\nUser-Agent: Reporter/1.0\r\nVersion: 1\r\nOriginal-Mail-From: <someone@example.com>\r\n"
    "Arrival-Date: Thu, 8 Jan 2026 17:40:27 -0200\r\nSource-IP: 192.0.2.1\r\nReported-Domain: Example.com\r\n"
    "Auth-Failure: dmarc\r\nIdentity-Alignment: dkim, spf\r\nDelivery-Result: reject\r\nIncidents: 3\r\n"
    "Original-Rcpt-To: <a@receiver.example>\r\nOriginal-Rcpt-To: <b@receiver.example>\r\nDKIM-Domain: example.com\r\n"
    "DKIM-Selector: s1\r\nAuthentication-Results: receiver.example;\r\n dkim=fail header.d=example.com\r\n"
)


def records(number: int = 2) -> str:
    """So many records of 7489's schema; that of number n stands for n messages."""
    return "\n".join(RECORD.format(ip=f"192.0.2.{at % 250}", count=at) for at in range(1, number + 1))


def old(number: int = 2) -> bytes:
    """A report by the schema of RFC 7489 without a namespace, as most are."""
    return RFC7489.format(records=records(number)).encode()


def new() -> bytes:
    """A report by the schema of RFC 9990."""
    return RFC9990.encode()


def zipped(*contents: bytes, names: Sequence[str] = ()) -> bytes:
    """A zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(contents):
            archive.writestr(names[number] if names else f"report{number}.xml", content)
    return out.getvalue()


def mail(*parts: tuple[str, str, bytes], text: str = "This is an aggregate report.") -> bytes:
    """A mail with these attachments: type, file name, content."""
    message = EmailMessage()
    message["From"] = "noreply-dmarc@big-mailbox.example"
    message["To"] = "dmarcreports@example.com"
    message["Subject"] = "Report domain: example.com Submitter: big-mailbox.example Report-ID: 13987654321098765432"
    message["Message-ID"] = "<1@big-mailbox.example>"
    message.set_content(text)
    for kind, name, content in parts:
        main, _, sub = kind.partition("/")
        message.add_attachment(content, maintype=main, subtype=sub, filename=name)
    return message.as_bytes()


def report_mail(content: bytes | None = None) -> bytes:
    """A mail with one report in gzip."""
    name = "big-mailbox.example!example.com!1767225600!1767311999.xml.gz"
    return mail(("application/gzip", name, gzip.compress(content or old())))


def failure_mail(feedback: str = FEEDBACK, *, encoding: str = "", original: str = "") -> bytes:
    """A failure report; with `encoding` "base64" its machine-readable part is encoded, with "hidden" without saying so."""
    body = feedback
    header = ""
    if encoding:
        body = base64.encodebytes(feedback.encode()).decode()
        header = "Content-Transfer-Encoding: base64\r\n" if encoding == "base64" else ""
    original = (
        original or "From: Someone <someone@example.com>\r\nSubject: Hello\r\nMessage-ID: <2@example.com>\r\n\r\nbody\r\n"
    )
    return (
        "From: dmarc@receiver.example\r\nTo: ruf@example.com\r\nSubject: FW: Hello\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=feedback-report; boundary="b"\r\n\r\n'
        "--b\r\nContent-Type: text/plain\r\n\r\nThis is an authentication failure report.\r\n"
        f"--b\r\nContent-Type: message/feedback-report\r\n{header}\r\n{body}\r\n"
        f"--b\r\nContent-Type: message/rfc822\r\n\r\n{original}\r\n--b--\r\n"
    ).encode()
