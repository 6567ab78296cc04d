"""What the package raises when the user asked for something that cannot be done."""


class InputError(ValueError):
    """A mistake in what was asked, told in one plain line: what, which value, what to do.

    The command line prints the line and exits with code 2; from a script it is an ordinary
    `ValueError`. Anything else that is raised is a defect of the package or of a library under it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
