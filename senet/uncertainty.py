"""How far chance alone takes a measured accuracy."""


def standard_error(fraction: float, count: int) -> float:
    """Of a fraction of `count` independent images."""
    return float((fraction * (1 - fraction) / max(1, count)) ** 0.5)
