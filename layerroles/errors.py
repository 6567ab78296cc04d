"""What the package raises when the user asked for something that cannot be done."""


class InputError(ValueError):
    """A mistake in what was asked, told in one plain line: what, which value, what to do.

    The command line prints the line and exits with code 2; from a script it is an ordinary
    `ValueError`. Anything else that is raised is a defect of the package or of a library under it.

    Example:
        >>> import layerroles as lr
        >>> try:
        ...     lr.Site(-1)
        ... except lr.InputError as error:
        ...     print(error)
        layer -1 is not a layer number: layers count from 0
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def shown(text: str) -> str:
    r"""Text from models, data and users for a terminal: what would steer it is written out.

    Example:
        >>> print(shown("a\x1b[2J b\u202e"))
        a\x1b[2J b\u202e
    """
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
