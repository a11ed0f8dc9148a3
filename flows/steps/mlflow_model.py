"""The ``MLmodel`` beside a bundle, by which MLflow's own tools can open it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.steps.bundle import MODEL
from flows.steps.files import write_text
from flows.steps.manifest import SERVING, Manifest


def write_mlmodel(bundle: Path) -> None:
    """Make a bundle's folder an MLflow model as well, with signature and requirements, on the very same skops file.

    The types that MLflow will trust are those in the file: opening it with MLflow is opening it with trust. Evergreen
    itself never reads them.
    """
    import skops.io
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    manifest = Manifest.model_validate_json((bundle / SERVING).read_text(encoding="utf-8"))
    kinds = {"float": "double", "string": "string"}
    inputs: list[Any] = [
        ColSpec(kinds[kind], name) for name, kind in zip(manifest.feature_names, manifest.feature_types, strict=True)
    ]
    output = "double" if manifest.task == "regression" else "string"
    model = Model(signature=ModelSignature(Schema(inputs), Schema([ColSpec(output)])))
    requirements = [f"{name}=={version}" for name, version in manifest.versions.items() if name != "python"]
    write_text(bundle / "requirements.txt", "\n".join([*requirements, "mlflow-skinny", "pandas", ""]))
    write_text(
        bundle / "python_env.yaml",
        f"python: {manifest.versions['python']}\ndependencies:\n- -r requirements.txt\n",
    )
    model.add_flavor(
        "python_function", loader_module="mlflow.sklearn", model_path=MODEL, predict_fn="predict",
        python_version=manifest.versions["python"], env={"virtualenv": "python_env.yaml"},
    )  # fmt: skip
    model.add_flavor(
        "sklearn", pickled_model=MODEL, serialization_format="skops", sklearn_version=manifest.versions["scikit-learn"],
        code=None, skops_trusted_types=skops.io.get_untrusted_types(file=bundle / MODEL),
    )  # fmt: skip
    model.save(str(bundle / "MLmodel"))
