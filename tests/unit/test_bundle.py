"""The model bundle: what is saved comes back the same, and nothing else is opened."""

import warnings
import zipfile

import numpy as np
import pytest
from serving_parts import FEATURES, archive, fitted, make_bundle, replace_model, rewrite, training_set
from sklearn import (
    calibration,
    cluster,
    compose,
    ensemble,
    impute,
    linear_model,
    neural_network,
    pipeline,
    preprocessing,
)
from sklearn.feature_extraction.text import TfidfVectorizer

from flows.errors import ContractError, TamperedError
from flows.models.taxi.spec import spec
from flows.steps import trusted
from flows.steps.bundle import frame_of, golden_difference, load_bundle, open_bundle
from flows.steps.bundling import save_bundle
from flows.steps.model_file import write_estimator
from flows.steps.training_set import matrix, read_part

classifying = spec.model_copy(update={"task": "multiclass"})


class Doubled(linear_model.LinearRegression):
    """A team's own estimator."""


def imputed(*steps):
    """Return a pipeline that fills missing values first."""
    return pipeline.make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler(), *steps)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    return folder, make_bundle(folder)


@pytest.fixture
def copied(saved, tmp_path):
    """A bundle that a test may damage."""
    for name in ("model.skops", "compiled.npz", "serving.json"):
        (tmp_path / name).write_bytes((saved[0] / name).read_bytes())
    return tmp_path, saved[1]


@pytest.mark.parametrize(
    "estimator",
    [
        linear_model.Ridge(), linear_model.TweedieRegressor(power=1), neural_network.MLPRegressor(max_iter=20),
        ensemble.GradientBoostingRegressor(n_estimators=5), ensemble.RandomForestRegressor(n_estimators=5),
        ensemble.StackingRegressor([("a", linear_model.Ridge())]),
        compose.TransformedTargetRegressor(linear_model.Ridge(), func=np.log1p, inverse_func=np.expm1),
    ],
    ids=lambda estimator: type(estimator).__name__,
)  # fmt: skip
def test_common_regressors_come_back_to_the_last_bit(estimator, tmp_path):
    data = training_set(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = fitted(imputed(estimator), data)
    bundle = load_bundle(tmp_path, save_bundle(spec, estimator, data, tmp_path))
    inputs = matrix(read_part(data, "judge"), data.features)
    assert (bundle.scores(inputs) == estimator.predict(inputs)).all()


@pytest.mark.parametrize(
    "estimator",
    [
        ensemble.HistGradientBoostingClassifier(max_iter=5), imputed(linear_model.LogisticRegression()),
        imputed(calibration.CalibratedClassifierCV(ensemble.RandomForestClassifier(n_estimators=5), cv=2)),
        imputed(calibration.CalibratedClassifierCV(linear_model.RidgeClassifier(), cv=2, method="isotonic")),
    ],
    ids=["boosting", "logistic", "calibrated forest", "isotonic"],
)  # fmt: skip
def test_common_classifiers_come_back_with_classes_and_probabilities(estimator, tmp_path):
    data = training_set(tmp_path, classes=True)
    estimator = fitted(estimator, data)
    bundle = load_bundle(tmp_path, save_bundle(classifying, estimator, data, tmp_path))
    inputs = matrix(read_part(data, "judge"), data.features)
    assert bundle.manifest.classes == ("long", "middle", "short")
    assert (bundle.scores(inputs) == estimator.predict_proba(inputs)).all()


def test_text_features_with_missing_values_come_back(tmp_path):
    data = training_set(tmp_path, text=True)
    encoder = preprocessing.OneHotEncoder(handle_unknown="ignore")
    columns = compose.ColumnTransformer([("text", encoder, ["zone"])], remainder="passthrough")
    estimator = fitted(pipeline.make_pipeline(columns, ensemble.HistGradientBoostingRegressor(max_iter=5)), data)
    bundle = load_bundle(tmp_path, save_bundle(spec, estimator, data, tmp_path))
    assert bundle.manifest.feature_types == ("float", "float", "float", "string")
    assert {row[3] for row in bundle.manifest.golden.inputs} == {"north", "south", None}


def test_a_text_vectorizer_is_the_same_file_in_each_process(tmp_path):
    found = []
    for address in (140255733070816, 139674840841184):
        words = TfidfVectorizer().fit(["a good dog", "a cat"])
        words._stop_words_id = address
        found.append(write_estimator(words, tmp_path / f"{address}.skops", "words").read_bytes())
    assert found[0] == found[1]


def test_the_manifest_says_what_serving_needs(saved):
    manifest = load_bundle(*saved).manifest
    assert manifest.model == "taxi"
    assert manifest.feature_names == tuple(FEATURES)
    assert manifest.request == spec.request
    assert manifest.classes is None
    assert len(manifest.golden.inputs) == 50
    assert manifest.versions.keys() == {"python", "scikit-learn", "numpy", "scipy", "skops"}
    assert manifest.estimator.endswith("HistGradientBoostingRegressor")


def test_columns_are_taken_by_name_and_a_missing_one_is_named(saved):
    bundle = load_bundle(*saved)
    frame = frame_of(bundle.manifest, list(zip(*bundle.manifest.golden.inputs, strict=True)))
    assert (bundle.scores(frame[frame.columns[::-1]].assign(more=1.0)) == bundle.scores(frame)).all()
    with pytest.raises(ContractError, match="lacks hour"):
        bundle.scores(frame.drop(columns="hour"))


@pytest.mark.parametrize("name", ["model.skops", "compiled.npz", "serving.json"])
def test_a_changed_byte_is_refused(name, copied):
    folder, digest = copied
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(TamperedError, match=f"{name} is not the recorded file"):
        load_bundle(folder, digest)


@pytest.mark.parametrize("name", ["model.skops", "compiled.npz", "serving.json"])
def test_a_missing_file_is_refused(name, copied):
    folder, digest = copied
    (folder / name).unlink()
    with pytest.raises(TamperedError, match=f"{name} is missing"):
        load_bundle(folder, digest)


def test_a_save_that_broke_off_is_no_bundle(copied, monkeypatch):
    folder, digest = copied
    data = training_set(folder / "data", rows=700)
    monkeypatch.setattr("flows.steps.bundling.write_text", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        save_bundle(spec, fitted(ensemble.HistGradientBoostingRegressor(max_iter=5), data), data, folder)
    with pytest.raises(TamperedError, match="not the recorded file"):
        load_bundle(folder, digest)


def test_another_kind_of_manifest_is_refused_by_its_field(copied):
    folder, _ = copied
    digest = rewrite(folder, lambda content: content.update(task="clustering"))
    with pytest.raises(ContractError, match=r"serving\.json: task"):
        load_bundle(folder, digest)


def test_golden_rows_that_come_out_otherwise_are_refused_but_can_be_measured(copied):
    folder, _ = copied

    def change(content):
        content["golden"]["outputs"][3][0] *= 1.0 + 1e-6

    digest = rewrite(folder, change)
    with pytest.raises(ContractError, match=r"golden rows differ by .*e-07"):
        load_bundle(folder, digest)
    assert golden_difference(open_bundle(folder, digest)) == pytest.approx(1e-6, rel=0.5)


def test_golden_rows_that_were_not_finite_never_pass(copied):
    folder, _ = copied
    digest = rewrite(folder, lambda content: content["golden"]["outputs"][0].__setitem__(0, None))
    with pytest.raises(ContractError, match="differ by inf"):
        load_bundle(folder, digest)


def test_a_teams_own_class_is_loaded_only_if_the_settings_name_it(tmp_path):
    data = training_set(tmp_path)
    path = f"{Doubled.__module__}.Doubled"
    digest = save_bundle(spec, fitted(imputed(Doubled()), data), data, tmp_path)
    with pytest.raises(TamperedError, match=f"nobody trusts: {path}"):
        load_bundle(tmp_path, digest)
    assert load_bundle(tmp_path, digest, (path,)).manifest.model == "taxi"


def test_an_estimator_that_skops_cannot_write_is_a_contract_error(tmp_path):
    data = training_set(tmp_path)
    estimator = fitted(imputed(cluster.Birch(), linear_model.Ridge()), data)
    with pytest.raises(ContractError, match=r"skops cannot write this estimator.*Birch"):
        save_bundle(spec, estimator, data, tmp_path)
    assert not (tmp_path / "serving.json").exists()


def test_an_estimator_with_a_lambda_is_refused(tmp_path):
    data = training_set(tmp_path)
    estimator = imputed(preprocessing.FunctionTransformer(lambda values: values), linear_model.Ridge())
    digest = save_bundle(spec, fitted(estimator, data), data, tmp_path)
    with pytest.raises(TamperedError, match=r"nobody trusts: .*lambda"):
        load_bundle(tmp_path, digest)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no file of skops"),
        (b"\x80\x04}.", "no file of skops"),
        (archive({"../../evil": b"x"}), "a member is named '../../evil'"),
        (archive({"/etc/evil": b"x"}), "a member is named '/etc/evil'"),
        (archive({"a.npy": b"x" * 99}, zipfile.ZIP_BZIP2), "compressed by method 12"),
        (archive({"a.npy": b"x" * 99}, zipfile.ZIP_LZMA), "compressed by method 14"),
        (archive({"a.npz": b"no zip"}), "no file of skops"),
        (archive({"a.npz": archive({"../b.npy": b"x"})}), "a member is named '../b.npy'"),
    ],
)
def test_what_skops_does_not_write_is_refused(data, reason, copied):
    with pytest.raises(TamperedError, match=reason):
        load_bundle(copied[0], replace_model(copied[0], data))


@pytest.mark.parametrize(
    "data",
    [
        archive({"readme": b"x"}),
        archive({"schema.json": b"{}"}),
        archive({"schema.json": b"[" * 100_000}),
        archive({"schema.json": b'{"protocol": 99}'}),
        archive({"schema.json": b'{"__class__": "list", "__module__": "builtins"}'}),
    ],
)
def test_a_zip_that_skops_cannot_read_is_refused(data, copied):
    with pytest.raises(ContractError, match="cannot be loaded here"):
        load_bundle(copied[0], replace_model(copied[0], data))


def test_a_bomb_is_refused_before_it_unpacks(copied, monkeypatch):
    monkeypatch.setattr(trusted, "MAX_UNPACKED_BYTES", 2**20)
    outer = archive({"a.npy": bytes(2**21)}, zipfile.ZIP_DEFLATED)
    inner = archive({"a.npz": archive({"b.npy": bytes(2**21)}, zipfile.ZIP_DEFLATED)})
    for data in (outer, inner):
        assert len(data) < 2**13
        with pytest.raises(TamperedError, match="unpacks to more than"):
            load_bundle(copied[0], replace_model(copied[0], data))


def test_a_model_larger_than_the_bound_is_not_read_whole(copied, monkeypatch):
    monkeypatch.setattr("flows.steps.bundle.MAX_MODEL_BYTES", 1000)
    with pytest.raises(TamperedError, match="larger than the 1000 bytes"):
        load_bundle(*copied)
