"""The record of a study that was killed, resumed and repeated on a cluster."""

from __future__ import annotations

from generators.markdown import Data, table


def study(record: Data) -> str:
    """What each run did, and whether report and cluster agree with the records."""
    local, report, cluster = record["local"], record["report"], record["cluster"]
    runs = [(run["recorded by this run"], run["recorded when killed"]) for run in local["kills"]]
    runs.append((local["cells left for the last run"], local["records"]))
    rows = [
        [str(number), str(did), f"{there} of {record['cells']}"]
        for number, (did, there) in enumerate(runs, start=1)
    ]
    heading = ("run", "cells recorded by it", "cells recorded when it ended")
    return f"{table(heading, rows, numbers=2)}\n{_report(report)} {_cluster(cluster)}\n"


def _report(report: Data) -> str:
    return (
        f"The report's table has {report['rows of the table']} rows; of "
        f"{report['figures compared']} figures in it (accuracy, tokens, FLOPs, time) "
        f"{report['figures of the table that differ']} differ from the records, and "
        f"{report['rows of the page that differ']} rows of the HTML page do."
    )


def _cluster(cluster: Data) -> str:
    return (
        f"On the cluster of {cluster['nodes']} nodes, {cluster['with the same answers']} of "
        f"{cluster['cells']} cells gave the same answers, sample by sample."
    )
