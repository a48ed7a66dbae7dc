"""WebRTC on a machine without a network."""

from aioice import ice


def offer_loopback_when_alone() -> None:
    """Let WebRTC connect over 127.0.0.1 when no other interface is up.

    aioice never offers the loopback address, so an aeroplane or an isolated container would be
    left without a single candidate. Where another address exists, nothing changes.
    """
    original = ice.get_host_addresses

    def get_host_addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        return original(use_ipv4=use_ipv4, use_ipv6=use_ipv6) or ["127.0.0.1"]

    ice.get_host_addresses = get_host_addresses
