"""Where nobody can send us: by URL and by address."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from atelier.addresses import RefusedError, Rules, is_public
from atelier.egress import Egress

RULES = Rules()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.255", "0.0.0.0", "0.1.2.3", "10.1.2.3", "172.16.0.1",
        "172.31.255.255", "192.168.0.1", "100.64.0.1", "100.127.255.255", "169.254.169.254",
        "192.0.0.8", "192.0.2.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "198.18.0.1",
        "198.19.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::ffff:7f00:1", "::ffff:8.8.8.8", "::7f00:1", "64:ff9b::7f00:1",
        "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378::1",
        "2001:2::1", "2001:10::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1",
        "5f00::1", "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
    ],
)  # fmt: skip
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(RefusedError):
        RULES.check([address])
    with pytest.raises(RefusedError):  # one of several is enough
        RULES.check(["93.184.215.14", address])


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.215.14", "172.32.0.1", "100.128.0.1", "198.20.0.1", "223.255.255.255",
     "2606:2800:21f:cb07::1", "2a00:1450:4001::1", "2001:4860:4860::8888"],
)  # fmt: skip
def test_what_is_public_is_not(address: str) -> None:
    RULES.check([address, "8.8.4.4"])


def test_no_address_at_all_is_refused() -> None:
    with pytest.raises(RefusedError):
        RULES.check([])
    with pytest.raises(RefusedError):
        RULES.check(["localhost"])


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/", "ftp://hooks.example.com/", "hooks.example.com", "", "https://",
        "https://127.0.0.1/", "https://2130706433/", "https://0x7f.1/", "https://127.1/",
        "https://0177.0.0.1/", "https://0x7f000001/", "https://[::1]/", "https://[::ffff:7f00:1]/",
        "https://[64:ff9b::7f00:1]/", "https://169.254.169.254/latest/meta-data/",
        "https://8.8.8.8/", "https://[2001:4860:4860::8888]/", "https://hooks.example.com:25/",
        "https://hooks.example.com:5432/", "https://hooks.example.com:0/",
        "https://hooks.example.com:99999/", "https://user@hooks.example.com/",
        "https://user:password@hooks.example.com/", "https://hooks.example.com@127.0.0.1/",
        "https://hooks.example.com:443@127.0.0.1/", "https://127.0.0.1\\@hooks.example.com/",
        "https://hooks.example.com/#fragment", "https://hooks.example.com/a b",
        "https://hooks.example.com/\r\nHost: x", "https://hooks.example.com/\0",
        "https://hooks..example.com/", "https://.example.com/", "https://-a.example.com/",
        "https://" + "a" * 64 + ".com/", "https://①②⑦.⓪.⓪.①/", "https://hooks.example.com/ü",
        "https://[::1/", "https://hooks.example.com/" + "a" * 2_048, "https://ex%61mple.com/",
    ],
)  # fmt: skip
def test_what_leads_astray_is_refused(url: str) -> None:
    with pytest.raises(RefusedError):
        RULES.target(url)


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("https://Hooks.Example.COM", "https://hooks.example.com/"),
        ("https://hooks.example.com:443/a?b=c", "https://hooks.example.com/a?b=c"),
        ("https://hooks.example.com:8443/", "https://hooks.example.com:8443/"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://hooks.example.com./", "https://hooks.example.com/"),
        ("https://localhost/", "https://localhost/"),  # a name: its addresses are refused
    ],
)
def test_what_leads_somewhere_has_one_form(url: str, stored: str) -> None:
    assert RULES.target(url).url == stored
    assert RULES.target(stored).url == stored


def test_an_operator_may_allow_more() -> None:
    rules = Rules((ip_network("10.0.0.0/8"), ip_network("::1/128")), (), plain_http=True)
    assert rules.target("http://10.1.2.3:5000/a").url == "http://10.1.2.3:5000/a"
    assert rules.target("http://[::1]:5000/a").authority == "[::1]:5000"
    rules.check(["10.1.2.3", "8.8.8.8"])
    for address in ("127.0.0.1", "192.168.0.1", "::ffff:10.1.2.3"):
        with pytest.raises(RefusedError):
            rules.check([address])
    assert "http or https" in rules.refusal and "port" not in rules.refusal


@pytest.mark.parametrize("fault", [OSError("no such name"), UnicodeError("too long")])
async def test_a_name_that_nobody_knows_is_refused_as_the_others_are(fault: Exception) -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise fault

    with pytest.raises(RefusedError) as refused:
        await Egress(RULES, unknown).resolve("https://hooks.example.com/")
    assert str(refused.value) == ""


async def test_the_system_s_names_for_this_machine_are_refused() -> None:
    with pytest.raises(RefusedError):
        await Egress(RULES).resolve("https://localhost/")
