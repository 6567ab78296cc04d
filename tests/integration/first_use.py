"""Use the installed package like a new user: `python first_use.py FOLDER`.

FOLDER is where the package must lie. What only extras bring may be missing.
"""

import importlib
import pkgutil
import sys
import warnings

EXTRAS = ("lm-eval", "lm_eval", "ray", "kaleido", "choreographer")


def main(folder: str) -> None:
    import layerroles as lr

    assert lr.__file__.startswith(folder), lr.__file__
    assert not [module for module in ("torch", "pandas", "plotly") if module in sys.modules]
    for name in ("torch", "transformers", "transformer_lens"):
        importlib.import_module(name)  # which may warn, of each other too
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in pkgutil.walk_packages(lr.__path__, "layerroles."):
            if not one.name.endswith("__main__"):
                try:
                    importlib.import_module(one.name)
                except (ModuleNotFoundError, lr.InputError) as error:
                    assert any(extra in str(error) for extra in EXTRAS), error
    for name in lr.__all__:
        try:
            getattr(lr, name)
        except lr.InputError as error:
            assert name == "AblatedLM" and "lm-eval" in str(error), error

    made = lr.planted()
    conditions = lr.each_layer(made.model, lr.Skip())
    result = lr.Sweep(made.model, made.tasks, conditions, limit=4).run("run")
    assert lr.read("run").frame.equals(result.frame)
    assert lr.report(result, path="page.html").stat().st_size > 100_000
    assert lr.task("facts").examples(1, 0) and lr.task("word_problems").examples(1, 0)
    print(lr.localize(result).frame.shape[0], "rows")


if __name__ == "__main__":
    main(sys.argv[1])
