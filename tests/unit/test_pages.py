"""Generated pages are up to date with the code."""

from tests.support.pages import PAGE, commands, index_page, pages


def test_pages_are_as_the_code_makes_them() -> None:
    for file, text in pages().items():
        assert file.read_text("utf-8") == text, f"{file.name} is old: make pages"


def test_the_index_has_a_row_for_each_object_of_a_page() -> None:
    text = "# All\n\n## [Made up](reference/one.md)\n\nold\n\n## [Other](reference/two.md)\n"
    page = index_page(text, {"one.md": "::: layerroles.load\n\n::: layerroles.Skip\n"})
    assert "| [`load`][layerroles.load] | Load a decoder-only" in page
    assert "| [`Skip`][layerroles.Skip] |" in page and "old" not in page and "Other" in page


def test_the_page_has_every_command_with_its_options() -> None:
    text = PAGE.read_text("utf-8")
    for name in commands():
        assert f"\n## {name}\n\n<!-- options of {name} -->" in text


def test_commands_that_print_json_have_their_keys_on_the_page() -> None:
    text = PAGE.read_text("utf-8")
    for name, command in commands().items():
        offers = any("--json" in param.opts for param in command.params)
        assert (f"| `{name} --json` |" in text) == offers
