"""The exception for mistakes in the input, and a check that several functions share."""


class InputError(ValueError):
    """A mistake in the input, described in one line: what is wrong, its value, and what to do.

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


def check_several(name: str, given: object) -> None:
    """Check that the argument `name` is not a single text, which is a sequence of letters.

    Raises:
        InputError: `given` is a text.
    """
    if isinstance(given, str):
        raise InputError(f"{name}={given!r} is one, not several: write [{given!r}]")
