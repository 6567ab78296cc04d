"""The page on the command line says what the commands say."""

from tests.support.command_line_page import PAGE, commands, page


def test_the_page_has_every_command_with_its_options() -> None:
    text = PAGE.read_text("utf-8")
    for name in commands():
        assert f"\n## {name}\n\n<!-- options of {name} -->" in text
    assert page(text) == text, "python -m tests.support.command_line_page writes the tables anew"


def test_commands_that_print_json_have_their_keys_on_the_page() -> None:
    text = PAGE.read_text("utf-8")
    for name, command in commands().items():
        offers = any("--json" in param.opts for param in command.params)
        assert (f"| `{name} --json` |" in text) == offers
