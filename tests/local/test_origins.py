"""Which page may talk to a server: every spelling of `Host` and `Origin` that may come."""

import pytest

from mistral_service.local.origins import LOOPBACK, allowed, check, host_allowed

HERE = "localhost:7860"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (HERE, "http://localhost:7860"),
        (HERE, "https://localhost:7860"),  # a proxy ends TLS
        ("LOCALHOST:7860", "http://localhost:7860"),
        ("localhost.:7860", "http://localhost.:7860"),
        ("demo.example.org", "https://demo.example.org"),
        ("demo.example.org", "http://demo.example.org"),
        ("demo.example.org:443", "https://demo.example.org"),
        ("[::1]:7860", "http://[::1]:7860"),
        ("[0:0:0:0:0:0:0:1]:7860", "http://[::1]:7860"),
    ],
)
def test_a_page_of_the_server_itself_is_allowed(host: str, origin: str):
    assert allowed([origin], host)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://evil.example:7860",
        "http://localhost",  # another port of this machine is another server's page
        "http://localhost:3000",
        "http://127.0.0.1:7860",
        "http://localhost:7860.evil.example",
        "http://localhost.evil.example:7860",
        "http://evil.example#localhost:7860",
        "http://localhost:7860@evil.example",
        "http://evil.example@localhost:7860",
        "http://localhost:7860/",
        "http://localhost:7860 http://evil.example",
        "http://localhost:7860, http://evil.example",
        "http://localhost:78600",
        "http://localhost:7860\n",
        "http://localhost:７８６０",
        "http://ⓛocalhost:7860",
        "chrome-extension://localhost:7860",
        "file://",
        "null",
        "NULL",
        "",
        "*",
        "localhost:7860",
        "//localhost:7860",
        "http://[::1:7860",
        "http://[zz]:7860",
    ],
)
def test_any_other_page_is_refused(origin: str):
    assert not allowed([origin], HERE)


def test_a_program_that_is_no_browser_sends_no_origin_and_is_allowed():
    assert allowed([], HERE)
    assert allowed([], "")


def test_two_origins_are_refused_even_if_each_is_allowed():
    assert not allowed(["http://localhost:7860", "http://localhost:7860"], HERE)


@pytest.mark.parametrize(
    ("entry", "origin", "answered"),
    [
        ("https://app.example.org", "https://app.example.org", True),
        ("https://app.example.org:443/", "https://app.example.org", True),
        ("HTTPS://App.Example.org", "https://app.example.org", True),
        ("https://app.example.org", "http://app.example.org", False),
        ("https://app.example.org", "https://app.example.org:8443", False),
        ("https://app.example.org", "https://app.example.org.evil.example", False),
        ("https://app.example.org", "https://evil-app.example.org", False),
        ("https://app.example.org", "null", False),
        ("app.example.org", "https://app.example.org", True),
        ("app.example.org", "http://app.example.org:8443", True),
        ("app.example.org", "https://www.app.example.org", False),
        ("app.example.org:8443", "https://app.example.org:8443", True),
        ("app.example.org:8443", "https://app.example.org", False),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("capacitor://localhost", "http://localhost", False),
        ("null", "null", False),
    ],
)
def test_further_pages_are_allowed_by_origin_or_by_host(entry: str, origin: str, answered: bool):
    assert allowed([origin], HERE, [entry]) is answered


@pytest.mark.parametrize(
    "host",
    ["localhost", HERE, "LocalHost:80", "localhost.", "127.0.0.1:7860", "[::1]", "[::1]:7860"],
)
def test_the_names_of_ones_own_machine_are_its_own(host: str):
    assert host_allowed([host])


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "localhost.evil.example",
        "evil-localhost",
        "127.0.0.1.evil.example",
        "127.0.0.1:7860:7860",
        "localhost:",
        "localhost:x",
        "evil.example@localhost",
        "localhost/evil.example",
        "localhost, evil.example",
        "localhost evil.example",
        "localhost..",
        "::1",
        "[::1",
        "[::1%25lo]",
        "0.0.0.0:7860",
        "192.168.1.5:7860",
        "169.254.169.254",
        "*",
        "",
    ],
)
def test_any_other_name_is_refused(host: str):
    assert not host_allowed([host])


def test_a_request_names_one_host():
    assert not host_allowed([])
    assert not host_allowed(["localhost", "localhost"])


def test_a_server_on_all_interfaces_answers_to_addresses_but_to_no_other_name():
    for host in ("192.168.1.5:7860", "[fe80::1]:7860", "localhost"):
        assert host_allowed([host], any_address=True), host
    for host in ("evil.example", "192.168.1.5.evil.example", "[fe80::1].evil.example"):
        assert not host_allowed([host], any_address=True), host


def test_a_server_can_have_further_names():
    names = [*LOOPBACK, "Demo.Example.org", "https://tunnel.example.net"]
    assert host_allowed(["demo.example.org:443"], names)
    assert host_allowed(["tunnel.example.net"], names)
    assert not host_allowed(["example.org"], names)


def test_an_entry_that_cannot_be_read_is_reported_at_the_start():
    check(["app.example.org", "https://app.example.org:8443", "[::1]"], "origins")
    for entry in ("*", "https://*.example.org", "https://app.example.org/path", "", "a b"):
        with pytest.raises(ValueError, match=r"origins has .*allowed are hosts"):
            check([entry], "origins")
