"""The compiled form answers as scikit-learn does, to the last bits, at the edges too; what differs is refused."""

import io
import json
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from serving_parts import fitted, make_bundle, rewrite, training_set
from sklearn import compose, ensemble, impute, linear_model, neural_network, pipeline, preprocessing, tree
from threadpoolctl import threadpool_limits

from flows.errors import ContractError, TamperedError
from flows.models.taxi.spec import spec
from flows.steps import compiled_check, gates, probe
from flows.steps.bundle import load_bundle, load_for_serving
from flows.steps.bundling import save_bundle
from flows.steps.compiled import TOLERANCE, Compiled, difference, dump, load
from flows.steps.compiled_check import UNHEARD_OF, compile_checked, edge_rows
from flows.steps.compiling import compile_estimator
from flows.steps.fitted_trees import CannotCompileError
from flows.steps.training_set import matrix, read_part
from flows.steps.trees import Tables, Walk

KINDS = {"hour": "float", "miles": "float", "zone_number": "float", "zone": "string"}


def table(rows: int = 1500, missing: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "hour": rng.uniform(0, 24, rows),
            "miles": rng.gamma(2.0, 1.5, rows),
            "zone_number": rng.integers(1, 60, rows).astype(float),
            "zone": rng.choice(["north", "south", "west"], rows).astype(object),
        }
    )
    if missing:
        for name in ("miles", "zone_number"):
            frame.loc[rng.random(rows) < 0.1, name] = np.nan
        frame.loc[rng.random(rows) < 0.1, "zone"] = None
    return frame


def minutes(frame: pd.DataFrame) -> np.ndarray:
    bias = frame["zone"].map({"north": 3.0, "south": -2.0}).fillna(0.0) + frame["zone_number"].fillna(0) % 7
    noise = np.random.default_rng(2).normal(0, 0.5, len(frame))
    return (4 * frame["miles"].fillna(3.0) + bias + np.sin(frame["hour"]) + 10 + noise).to_numpy()


def encoded(encoder, *steps):
    columns = compose.ColumnTransformer([("words", encoder, ["zone", "zone_number"])], remainder="passthrough")
    return pipeline.make_pipeline(columns, *steps)


def filled(*steps):
    return pipeline.make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler(), *steps)


ONE_HOT = preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
ORDINAL = preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
# Estimator, its columns, classes of the label (0: minutes themselves), and how its trees are evaluated.
MODELS = {
    "boosting": (ensemble.HistGradientBoostingRegressor(max_iter=40), 3, 0, Tables),
    "poisson": (ensemble.HistGradientBoostingRegressor(max_iter=20, loss="poisson"), 3, 0, Tables),
    "native categories": (
        ensemble.HistGradientBoostingRegressor(max_iter=40, categorical_features=["zone", "zone_number"]), 4, 0, Tables,
    ),
    "one hot": (encoded(ONE_HOT, ensemble.HistGradientBoostingRegressor(max_iter=20)), 4, 0, Tables),
    "ordinal": (encoded(ORDINAL, ensemble.HistGradientBoostingRegressor(max_iter=20)), 4, 0, Tables),
    # As ``evergreen new`` drafts it: codes of the texts, which the trees take as categories by their place.
    "coded categories": (
        encoded(
            preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan),
            ensemble.HistGradientBoostingRegressor(max_iter=40, categorical_features=[0, 1]),
        ), 4, 0, Tables,
    ),
    "coded categories, two classes": (
        encoded(
            preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan),
            ensemble.HistGradientBoostingClassifier(max_iter=10, categorical_features=[0, 1]),
        ), 4, 2, Tables,
    ),
    "large trees": (
        ensemble.HistGradientBoostingRegressor(
            max_iter=15, max_leaf_nodes=100, min_samples_leaf=4, categorical_features=["zone"]
        ), 4, 0, Walk,
    ),
    "two classes": (ensemble.HistGradientBoostingClassifier(max_iter=10), 3, 2, Tables),
    "three classes": (
        ensemble.HistGradientBoostingClassifier(max_iter=10, categorical_features=["zone"]), 4, 3, Tables
    ),
    "forest": (ensemble.RandomForestRegressor(8), 3, 0, Walk),
    "small forest": (ensemble.ExtraTreesClassifier(8, max_leaf_nodes=40), 3, 3, Tables),
    "tree": (tree.DecisionTreeRegressor(max_depth=5), 3, 0, Tables),
    "gradient boosting": (filled(ensemble.GradientBoostingRegressor(n_estimators=20)), 3, 0, Tables),
    "gradient boosting, classes": (filled(ensemble.GradientBoostingClassifier(n_estimators=8)), 3, 3, Tables),
    "ridge": (filled(linear_model.Ridge()), 3, 0, None),
    "logistic": (filled(linear_model.LogisticRegression()), 3, 3, None),
    "logistic, two classes": (filled(linear_model.LogisticRegression()), 3, 2, None),
}  # fmt: skip


def made(name):
    """Return a fitted estimator, its frame, what it says of it, and its compiled form as read back."""
    estimator, width, classes, _ = MODELS[name]
    frame = table().iloc[:, :width]
    label = minutes(table())
    if classes:
        label = np.digitize(label, np.quantile(label, np.linspace(0, 1, classes + 1)[1:-1]))
    with warnings.catch_warnings(), threadpool_limits(limits=1):  # it is small, and others need the cores
        warnings.simplefilter("ignore")
        estimator.fit(frame, label)
    answers = answered(estimator, classes, frame)
    compiled = compile_estimator(estimator, list(frame), [KINDS[column] for column in frame], {})
    return estimator, classes, frame, answers, load(dump(compiled), width, "it")


def answered(estimator, classes, frame):
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore")
        return estimator.predict_proba(frame) if classes else estimator.predict(frame)


def rows_of(frame):
    return [[None if value != value else value for value in row] for row in frame.itertuples(index=False, name=None)]


@pytest.mark.parametrize("name", MODELS)
def test_rows_one_by_one_and_together_come_out_as_from_scikit_learn_at_the_edges_too(name):
    estimator, classes, frame, answers, compiled = made(name)
    assert type(compiled._trees) is (MODELS[name][3] or type(None))
    assert difference(compiled.predict(rows_of(frame)), answers) < 1e-12
    edges = edge_rows(compiled, frame)
    theirs = answered(estimator, classes, edges)
    rows = rows_of(edges)
    assert difference(compiled.predict(rows), theirs) < 1e-12
    for place in range(0, len(rows), 20):
        assert difference(compiled.predict(rows[place : place + 1]), theirs[place : place + 1]) < 1e-12


def test_edge_rows_hold_thresholds_their_neighbours_and_the_float32_beside_them():
    _, _, frame, _, compiled = made("boosting")
    trees = compiled.trees
    cuts = set(trees.threshold[trees.feature == 1].tolist())
    values = edge_rows(compiled, frame)["miles"]
    assert values.isna().any()
    assert cuts & set(values)
    assert {np.nextafter(cut, np.inf) for cut in cuts} & set(values)
    assert {float(np.float32(cut)) for cut in cuts if float(np.float32(cut)) != cut} & set(values)
    words = edge_rows(made("native categories")[4], table())["zone"]
    assert UNHEARD_OF in set(words)
    assert words.isna().any()


def test_infinities_and_huge_numbers_go_the_way_they_go_in_scikit_learn():
    estimator, _, frame, _, compiled = made("boosting")
    odd = frame.iloc[:5].copy()
    odd["miles"] = [np.inf, -np.inf, 1e308, -1e308, np.nan]
    assert (compiled.predict(rows_of(odd)) == estimator.predict(odd)).all()


@pytest.mark.parametrize("name", ["ridge", "forest"])
def test_what_scikit_learn_refuses_is_refused(name):
    estimator, _, frame, _, compiled = made(name)
    odd = frame.iloc[:1].copy()
    odd["hour"] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        estimator.predict(odd)
    with pytest.raises(ValueError, match="missing or infinite"):
        compiled.predict(rows_of(odd))


def test_an_unknown_category_is_an_error_where_the_encoder_says_so():
    frame = table(missing=False)
    strict = preprocessing.OneHotEncoder(sparse_output=False)
    estimator = encoded(strict, linear_model.Ridge()).fit(frame, minutes(frame))
    compiled = compile_estimator(estimator, list(frame), list(KINDS.values()), {})
    assert difference(compiled.predict(rows_of(frame)), estimator.predict(frame)) < 1e-12
    with pytest.raises(ValueError, match="category"):
        compiled.predict([[1.0, 1.0, frame["zone_number"][0], "nowhere"]])


@pytest.mark.parametrize(
    "estimator",
    [
        neural_network.MLPRegressor(max_iter=5), filled(ensemble.StackingRegressor([("a", linear_model.Ridge())])),
        compose.TransformedTargetRegressor(linear_model.Ridge(), func=np.log1p, inverse_func=np.expm1),
        pipeline.make_pipeline(preprocessing.PolynomialFeatures(), linear_model.Ridge()),
        ensemble.GradientBoostingRegressor(init=linear_model.Ridge(), n_estimators=2),
        pipeline.make_pipeline(impute.SimpleImputer(add_indicator=True), linear_model.Ridge()),
    ],
    ids=lambda estimator: type(estimator).__name__,
)  # fmt: skip
def test_other_estimators_have_no_compiled_form_and_the_reason_is_told(estimator):
    frame = table(missing=False).iloc[:, :3]
    if "simpleimputer" in getattr(estimator, "named_steps", {}):
        frame.iloc[0, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(frame, minutes(table(missing=False)))
    with pytest.raises(CannotCompileError):
        compile_estimator(estimator, list(frame), ["float"] * 3, {})
    data, _, reason = compile_checked(estimator, "regression", frame, estimator.predict(frame))
    assert data == b""
    assert reason.startswith("there is no compiled form of ")


def test_the_same_estimator_is_the_same_bytes():
    estimator, _, frame, _, compiled = made("native categories")
    again = compile_estimator(estimator, list(frame), [KINDS[name] for name in frame], {})
    assert dump(again) == dump(compiled)


def rounded(compiled: Compiled) -> Compiled:
    """Return a form as a compiler to float32 would make it: thresholds rounded."""
    arrays = compiled.trees.arrays()
    threshold = arrays["threshold"].astype(np.float32).astype(np.float64)
    return Compiled(compiled.program, type(compiled.trees)(**arrays | {"threshold": threshold}))


def test_a_form_in_float32_is_refused_though_it_agrees_on_the_test_set(tmp_path, monkeypatch):
    data = training_set(tmp_path)
    estimator = fitted(ensemble.HistGradientBoostingRegressor(max_iter=20, random_state=0), data)
    frame = matrix(read_part(data, "judge"), data.features)
    right = compile_estimator(estimator, list(frame), ["float"] * 3, {})
    inputs = frame.to_numpy()
    assert difference(rounded(right).predict_numbers(inputs), estimator.predict(frame)) <= TOLERANCE

    monkeypatch.setattr(compiled_check, "compile_estimator", lambda *arguments: rounded(compile_estimator(*arguments)))
    digest = save_bundle(spec, estimator, data, tmp_path)
    assert not (tmp_path / "compiled.npz").exists()
    bundle = load_bundle(tmp_path, digest)
    assert bundle.compiled is None
    assert "differs from scikit-learn by" in bundle.manifest.compiled.reason
    assert bundle.manifest.compiled.difference > TOLERANCE
    assert load_for_serving(tmp_path, digest) is None
    one = pd.DataFrame([[1.0, 2.0, np.nan]], columns=list(frame))
    assert (bundle.answers([[1.0], [2.0], [None]]) == estimator.predict(one)).all()
    verdict = gates._compiled(probe.probe_here(tmp_path, digest, ()))
    assert verdict.passed  # the form is refused, not the model
    assert verdict.reason.startswith("scikit-learn itself serves: it differs from scikit-learn by")


def test_the_gate_judges_the_form_that_would_serve(tmp_path):
    digest = make_bundle(tmp_path)
    found = probe.probe_here(tmp_path, digest, ())
    verdict = gates._compiled(found)
    assert verdict.passed
    assert verdict.number <= 1e-12
    assert verdict.threshold == TOLERANCE
    worse = found.model_copy(update={"compiled_difference": 2e-6})
    assert not gates._compiled(worse).passed
    assert not gates._compiled(found.model_copy(update={"compiled_difference": None})).passed
    assert not gates._compiled(found.model_copy(update={"loaded": False})).passed


def test_another_form_under_a_fitting_hash_is_refused_by_its_golden_rows(tmp_path):
    digest = make_bundle(tmp_path)
    bundle = load_bundle(tmp_path, digest)
    shifted = bundle.compiled.program.model_copy(update={"offset": (bundle.compiled.program.offset[0] * 1.00001,)})
    replaced(tmp_path, dump(Compiled(shifted, bundle.compiled.trees)))
    with pytest.raises(ContractError, match="golden rows differ"):
        load_for_serving(tmp_path, rewrite(tmp_path, lambda _: None))


def replaced(folder, data) -> str:
    """Put other bytes in the place of the compiled form, with hashes that fit, and return the bundle's digest."""
    from hashlib import sha256

    (folder / "compiled.npz").write_bytes(data)
    return rewrite(folder, lambda content: content["compiled"].update(sha256=sha256(data).hexdigest()))


def altered(compiled: Compiled, **arrays) -> bytes:
    """Return the file of a form with other arrays, as someone may craft it."""
    form = SimpleNamespace(program=compiled.program, trees=type(compiled.trees)(**compiled.trees.arrays() | arrays))
    return dump(form)


def test_crafted_forms_are_refused_and_run_nothing(tmp_path):
    make_bundle(tmp_path)
    compiled = load((tmp_path / "compiled.npz").read_bytes(), 3, "it")
    trees = compiled.trees
    inner = int(np.flatnonzero(trees.feature >= 0)[0])
    loop, outside, elsewhere = trees.left.copy(), trees.right.copy(), trees.feature.copy()
    loop[inner], outside[inner], elsewhere[inner] = inner, 10**6, 3
    pickled = io.BytesIO()
    with zipfile.ZipFile(pickled, "w") as archive:
        member = io.BytesIO()
        np.lib.format.write_array(member, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        archive.writestr("program.npy", member.getvalue())
    crafted = [
        b"", b"no zip", pickled.getvalue(), altered(compiled, left=loop), altered(compiled, right=outside),
        altered(compiled, feature=elsewhere), altered(compiled, value=trees.value[:-1]),
        altered(compiled, start=trees.start[:-1]),
    ]  # fmt: skip
    for data in crafted:
        with pytest.raises(ContractError, match="is no compiled form"):
            load_for_serving(tmp_path, replaced(tmp_path, data))


def test_a_form_is_opened_only_if_its_hash_and_that_of_the_model_are_the_recorded_ones(tmp_path):
    digest = make_bundle(tmp_path)
    assert load_for_serving(tmp_path, digest).estimator is None
    for name in ("compiled.npz", "model.skops"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content + b"x")
        with pytest.raises(TamperedError, match=f"{name} is not the recorded file"):
            load_for_serving(tmp_path, digest)
        (tmp_path / name).write_bytes(content)


def test_bundles_from_before_there_were_compiled_forms_are_served_by_scikit_learn(tmp_path):
    make_bundle(tmp_path)
    digest = rewrite(tmp_path, lambda content: content.pop("compiled"))
    assert load_for_serving(tmp_path, digest) is None
    assert load_bundle(tmp_path, digest).compiled is None
    assert json.loads((tmp_path / "serving.json").read_text())["model_sha256"]
