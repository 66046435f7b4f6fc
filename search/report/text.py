"""Figures as people read them: 41.2 M, 0.27 MB, 1.94 ms, 91.7 %."""

from __future__ import annotations

_STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float | None) -> str:
    """Three significant digits and a decimal prefix.

    Example:
        >>> count(41_234_000), count(950), count(None)
        ('41.2 M', '950', '–')
    """
    if value is None:
        return "–"
    for step, prefix in _STEPS:
        if abs(value) >= step * 0.9995:
            return f"{_digits(value / step)} {prefix}"
    return f"{value:.0f}"


def size(value: float | None) -> str:
    """Bytes with decimal prefixes (1 MB = 1,000,000 bytes).

    Example:
        >>> size(270_000), size(12)
        ('270 kB', '12 B')
    """
    text = count(value)
    return text if value is None else (text if text[-1].isalpha() else f"{text} ") + "B"


def ms(value: float | None) -> str:
    """Milliseconds with three significant digits.

    Example:
        >>> ms(0.08214), ms(15.27)
        ('0.0821 ms', '15.3 ms')
    """
    return "–" if value is None else f"{_digits(value)} ms"


def percent(value: float | None, digits: int = 2) -> str:
    """A share 0..1 as a percentage.

    Example:
        >>> percent(0.9173)
        '91.73 %'
    """
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def times(value: float | None) -> str:
    """A speed-up.

    Example:
        >>> times(1.934)
        '1.93x'
    """
    return "–" if value is None else f"{value:.2f}x"


def seconds(value: float) -> str:
    """A duration.

    Example:
        >>> seconds(3.2), seconds(75), seconds(7260)
        ('3.2 s', '1 min 15 s', '2 h 1 min')
    """
    if value < 59.5:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _digits(value: float) -> str:
    size_ = abs(value)
    if size_ == 0:
        return "0"
    places = 0
    while size_ < 99.95 and places < 6:
        size_ *= 10
        places += 1
    return f"{value:.{places}f}"
