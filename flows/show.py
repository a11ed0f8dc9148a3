"""What the command line shows a person: tables and lines from the plain data that flows and steps return."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from flows.terminal import BAD, GOOD, QUIET, console, line, table


def show_ingested(found: list[dict[str, Any]]) -> None:
    """Show what became of the partitions of a source."""
    _partitions(found)
    counts = [sum(one["status"] == status for one in found) for status in ("accepted", "quarantined")]
    line(f"{counts[0]} accepted, {counts[1]} quarantined, {sum(one['rejected_rows'] for one in found)} rows rejected")
    old = [one["key"] for one in found if one["status"] == "replaced"]
    if old:
        line(
            f"{len(old)} hold rows that a later revision has replaced ({old[0]}), which stays in force; --again makes them the "
            "newest once more"
        )


def show_labelled(found: dict[str, Any]) -> None:
    """Show what became of labels, and of the partitions that they changed."""
    if found["partitions"]:
        show_ingested(found["partitions"])
    if found["others"]:
        line(f"left out, as the raw table has no such column: {', '.join(found['others'])}", QUIET)
    none = found["labels"] - found["met"]
    line(
        f"{found['labels']:,} labels: {found['met']:,} belong to landed rows, {none:,} to none; {found['rows']:,} rows changed"
    )


def show_partitions(found: list[dict[str, Any]]) -> None:
    """Show landed partitions, with the page of the first that was refused."""
    if not found:
        line("nothing has landed yet; run `evergreen ingest SOURCE`")
        return
    _partitions(found)
    pages = [one["docs_uri"] for one in found if one.get("docs_uri")]
    if pages:
        line(f"Each partition has a page, the newest: {pages[-1]}", QUIET)


def _partitions(found: list[dict[str, Any]]) -> None:
    console.print(
        table(
            ["partition", "revision", "status", "rows", "accepted", "rejected", "reasons"],
            [
                (
                    p["key"],
                    p["revision"],
                    p["status"],
                    p["rows"],
                    p["accepted_rows"],
                    p["rejected_rows"],
                    "; ".join(p["reasons"]),
                )
                for p in found
            ],
        )
    )


def show_featurized(found: dict[str, Any]) -> None:
    """Show how much was computed."""
    rows = ", ".join(f"{view} {count}" for view, count in found["rows"].items()) or "none"
    line(f"{found['partitions']} new partitions, {found['ticks']} ticks computed; rows written: {rows}")


def show_trained(found: dict[str, Any]) -> None:
    """Show the verdict of a training."""
    if found.get("approval"):
        line(f"version {found['version']} waits for a person's word in the Prefect UI, run {found['approval']}")
    if found.get("trial"):
        line(f"version {found['version']} is on trial as {found['trial']}; see `evergreen trial`")
    if found.get("waits_for"):
        line(
            f"version {found['version']} waits: version {found['waits_for']} is on trial; the next training tries what is "
            f"newest then, or `evergreen promote {found['version']} --canary` once that has ended"
        )
    if found.get("unchanged"):
        line(f"version {found['version']} was made of exactly this data and code; --force trains all the same")
        return
    line(
        f"error {found['error']:.4g} on the {found['judge_rows']} newest rows, "
        f"{found['train_error']:.4g} on {found['train_rows']} trained on"
    )
    line(f"naive {found['baseline_error']:.4g}", QUIET)
    if found["champion_error"] is not None:
        line(f"champion, version {found['champion_version']}: {found['champion_error']:.4g} on the same rows", QUIET)
    if found.get("older_rows"):
        line(
            f"the rows of {len(found['older_rows'])} partitions ({found['older_rows'][0]} and on) were made by another `rows` "
            "than the newest: ingest their sources again by name, which makes them anew",
            BAD,
        )
    if found.get("empty"):
        line(f"no row that trained had a value of {', '.join(found['empty'])}: see `evergreen features`", BAD)
    if found.get("unseen"):
        from flows.steps.metrics import unseen_text

        line(f"{unseen_text(found['unseen'])}: the error, and what monitoring expects, hold what they cost", BAD)
    if found["failed"]:
        stays = "there is no champion yet" if found["champion_version"] is None else "the champion stays"
        line(f"refused by: {', '.join(found['failed'])}; {stays} (MLflow run {found['run_id']})", BAD)
        for text in found["refusals"]:
            line(f"  {text}")
    else:
        line(f"version {found['version']} passed every gate{' and is the champion' if found['promoted'] else ''}", GOOD)


def show_promoted(found: dict[str, Any]) -> None:
    """Show a transition of the champion, or that a person refused it."""
    if "refused" in found:
        line(
            f"version {found['version']} of {found['model']} was refused by {found['refused']}; it is not offered again",
            BAD,
        )
        return
    before = f", version {found['previous_version']} before" if found["previous_version"] else ""
    line(f"version {found['version']} is the champion of {found['model']}{before}: {found['why']}", GOOD)


def show_monitored(found: dict[str, Any]) -> None:
    """Show what monitoring found and decided."""
    line(found["verdict"], BAD if found["reasons"] else GOOD)
    for label, style in (("reasons", ""), ("held", QUIET), ("data_problems", BAD)):
        for text in found[label]:
            line(f"  {text}", style)
    _errors(found["performance"])
    if found["skew"]["warning"]:
        line(f"  {found['skew']['warning']}", BAD)
    line(f"report: {found['report']}", QUIET)
    if found["training"]:
        show_trained(found["training"])


def _errors(found: dict[str, Any] | None) -> None:
    """Show the error of what is labelled beside the one to expect; a figure that is no number is missing."""
    from flows.steps.pages import three_digits

    if not found or not found["predictions"] or found["degraded"]:  # then it is among the reasons
        return
    waiting = f", {found['waiting']:,} wait for theirs" if found["waiting"] else ""
    text = f"{found['labelled']:,} of {found['predictions']:,} predictions have their label{waiting}"
    low, high = found["ratio_interval"]
    figures = [found["error"], found["expected"], found["ratio"], low, float("inf") if high is None else high]
    if None not in figures:
        error, expected, ratio, low, high = map(three_digits, figures)
        text += f"; {found['metric']} {error} where {expected} is to be expected: {ratio} times ({low} to {high})"
    line(f"  {text}", QUIET)


def show_scored(found: dict[str, Any]) -> None:
    """Show where the predictions are."""
    line(f"{found['rows']} rows predicted by version {found['version']}: {found['target']}", GOOD)


def show_links(found: dict[str, str], note: str) -> None:
    """Show where to look while the stack is up, and what will not happen."""
    for what, where in found.items():
        console.print(Text(f"{what:<15}{where}"), soft_wrap=True)
    if note:
        line(note, BAD)
    line("Ctrl-C ends it all; the next `evergreen up` goes on", QUIET)
    console.file.flush()


def show_deployed(found: dict[str, Any]) -> None:
    """Show what was brought onto the server."""
    line(
        f"{len(found['deployments'])} deployments with {found['triggers']} triggers in the work pool {found['work_pool']}: "
        f"{', '.join(found['deployments'])}",
        GOOD,
    )
    if found["paused"]:
        line(f"paused, as they were: {', '.join(found['paused'])}")


def show_triggers(found: list[dict[str, Any]]) -> None:
    """Show the triggers, when each fired last, and why."""
    rows = []
    for one in found:
        fired = one["last_fired"] and _time(one["last_fired"])
        coming = "paused" if one["paused"] else one["next"] and _time(one["next"])
        rows.append((one["name"], one["how"], fired, coming))
        rows += [("", f"  {text}", "", "") for text in (one["why"], one["outcome"]) if text]
    console.print(table(["trigger", "when, and why it fired last", "last fired", "next"], rows))


def show_versions(found: list[dict[str, Any]]) -> None:
    """Show registered versions."""
    if not found:
        line("no version yet; run `evergreen train`")
        return
    console.print(
        table(
            ["version", "state", "made", "metrics", "reason", "run"],
            [
                (v["version"], v["state"], _time(v["created_at"]), _metrics(v["metrics"]), v["reason"], v["run_id"][:8])
                for v in found
            ],
        )
    )


def show_status(found: dict[str, Any]) -> None:
    """Show the state of a model on one screen."""
    line(f"{found['model']}: {found['description']}", "bold")
    now, waiting, landed, service = found["champion"], found["challenger"], found["partitions"], found["service"]
    span = f" ({landed['first']} to {landed['last']})" if landed["accepted"] else ""
    mended = f", {landed['mended']} of them of periods that are accepted all the same" if landed["mended"] else ""
    rows: list[tuple[object, object]] = [
        ("champion", f"version {now['version']} since {_time(now['since'])}: {now['why']}" if now else "none"),
        ("metrics", _metrics(now["metrics"]) if now else None),
        ("challenger", f"version {waiting['version']}" if waiting else "none"),
        *([("on trial", trial_line(found["trial"]))] if found["trial"] else []),
        ("MLflow alias", found["alias"]),
        *(("to mend", problem) for problem in found["problems"]),
        ("partitions", f"{landed['accepted']} accepted{span}, {landed['quarantined']} quarantined{mended}"),
        ("rows", f"{landed['rows']} accepted, {landed['rejected_rows']} rejected"),
        ("waits to train", "; ".join(found["causes"]) or "nothing"),
        ("service", _service(service)),
    ]
    console.print(table(["", ""], rows))
    if found["last_runs"]:
        console.print()
        runs = [
            (r["flow"], r["state"], _time(r["started_at"]), _seconds(r["seconds"]), _why(r)) for r in found["last_runs"]
        ]
        console.print(table(["last runs", "state", "started", "seconds", "why"], runs))


def _service(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not running"
    version = found["version"]
    return f"{found['url']} {'has no version to answer with' if version is None else f'answers with version {version}'}"


def show_trial(found: dict[str, Any] | None) -> None:
    """Show a shadow or canary."""
    if found is None:
        line("nothing was ever on trial; begin with `evergreen promote --canary` or `--shadow`")
        return
    line(trial_line(found), BAD if found["state"] == "failed" else GOOD if found["state"] == "passed" else "")
    counts = ", ".join(counted(name, value) for name, value in found["counts"].items() if value is not None)
    line(f"since {_time(found['since'])}, for {found['who']}: {found['why']}; {counts}", QUIET)


def counted(name: str, value: Any) -> str:
    """Return what was counted of a trial, its median times in milliseconds."""
    medians = {"seconds": "median", "champion_seconds": "the champion's"}
    return f"{medians[name]} {1000 * value:.1f} ms" if name in medians else f"{name.replace('_', ' ')} {value}"


def trial_line(found: dict[str, Any]) -> str:
    """Return one line on a shadow or canary."""
    share = f" with {100 * found['share']:g} % of the requests" if found["kind"] == "canary" else ""
    rest = f": {found['outcome']}" if found["outcome"] else f", {found['counts']['requests']} requests so far"
    return f"version {found['version']} as {found['kind']}{share} {found['state']}{rest}"


def show_findings(found: list[dict[str, Any]]) -> None:
    """Show what the doctor found, and under each part that is not well how to mend it."""
    for one in found:
        style = {"good": GOOD, "warning": "yellow", "bad": BAD}[one["state"]]
        line(f"{one['state']:<8}{one['part']:<16}{one['found']}", style)
        if one["mend"]:
            line(f"{'':<24}{one['mend']}")


def show_changes(found: list[dict[str, Any]]) -> None:
    """Show what applying the feature definitions would change."""
    for one in found:
        line(f"{one['kind']:<8}{one['what']}: {one['detail']}", BAD if one["destructive"] else "")
    line(f"{len(found)} changes" if found else "the definitions are as registered", QUIET)


def show_lines(found: dict[str, Any]) -> None:
    """Show plain facts, a line each."""
    for name, value in found.items():
        line(f"{name.replace('_', ' ')}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def _why(run: dict[str, Any]) -> str:
    outcome = f"refused by {', '.join(run['refused_by'])}" if run["refused_by"] else run["error"]
    return "; ".join(filter(None, [run["reason"], outcome]))


def _time(text: str) -> str:
    return text[:19].replace("T", " ") + " UTC"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _metrics(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in found.items()) or "-"
