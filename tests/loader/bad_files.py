"""Files with mistakes that people make; the golden texts say what they are told."""

from __future__ import annotations

HEAD = """\
portfolio: demo
data:
  flights: {path: data/flights.csv, time: sched_dep, key: id}
environments:
  base: {requirements: envs/base.txt}
defaults: {environment: base}
"""

DELAY = """\
  delay: {train: "m:train", data: flights, task: regression, features: [hour, dest], target: minutes}
"""


def model(**changes: str) -> str:
    """A file with one good model `late` whose keys are changed; an empty text removes the key."""
    keys = {
        "train": '"m:train"',
        "data": "flights",
        "task": "binary",
        "features": "[hour, dest]",
        "target": "late",
    } | changes
    lines = [f"    {key}: {value}" for key, value in keys.items() if value]
    return HEAD + "models:\n" + DELAY + "  late:\n" + "\n".join(lines) + "\n"


def family(name: str = "late-{origin}", **changes: str) -> str:
    """The same as a family over the origins."""
    keys = {
        "for_each": "{distinct: [origin], of: flights}",
        "data": '{flights: {where: {origin: "{origin}"}}}',
    } | changes
    return model(**keys).replace("  late:\n", f'  "{name}":\n')


BAD: dict[str, str | bytes] = {
    # not YAML
    "empty": "",
    "only_comments": "# nothing\n\n",
    "tab_indentation": "portfolio: demo\nmodels:\n\tlate: {}\n",
    "open_bracket": HEAD + "models:\n  late: {features: [a, b\n",
    "colon_in_text": "portfolio: demo\ndescription: late: more than 15 minutes\n",
    "at_sign": HEAD + "models:\n  late: {owner: @ops}\n",
    "latin_1": "portfolio: demo\n# caf\xe9\n".encode("latin-1"),
    "control_character": "portfolio: de\x07mo\n",
    "utf_16": "portfolio: demo\n".encode("utf-16"),
    "two_documents": "portfolio: demo\n---\nmodels: {}\n",
    "a_list": "- portfolio: demo\n",
    "duplicate_key": model(task="binary").replace("    target", "    task: regression\n    target"),
    "duplicate_model": model() + "  late: {}\n",
    "unquoted_family": HEAD + "models:\n  {origin}-late: {}\n",
    "merge_key": HEAD + "x: &a {task: binary}\nmodels:\n  late: {<<: *a}\n",
    "unknown_alias": model(params="{a: *later}"),
    "python_tag": model(params="!!python/object:os.system {}"),
    "alias_bomb": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)),
    "nested_too_deeply": "a: " + "[" * 100 + "]" * 100,
    # wrong shapes
    "unknown_top_key": HEAD + "model:\n  late: {}\n",
    "unknown_model_key": model(feature="[a]"),
    "no_name": "models: {}\n",
    "format_2": "portfolio: demo\nformat: 2\n",
    "bad_portfolio_name": "portfolio: my demo/1\n",
    "everything_missing": HEAD + "models:\n  late: {}\n",
    "model_is_text": HEAD + "models:\n  late: flights.late\n",
    "wrong_task": model(task="classification"),
    "misspelt_task": model(task="regresion"),
    "train_without_function": model(train="flights.late"),
    "features_as_text": model(features="hour"),
    "no_features": model(features="[]"),
    "feature_twice": model(features="[hour, dest, hour]"),
    "number_as_text": model(features="[hour, 12]"),
    "yes_is_text": model(protect="yes"),
    "duration_without_unit": model(limits="{time: 10, memory: 2 GB}"),
    "a_bound_of_nothing": model(limits="{time: 0h, memory: 0MB}"),
    "semantics_zero": model(semantics="0"),
    "not_a_number": model(params="{rate: .nan}"),
    "path_and_sql": HEAD.replace("path:", "sql: select 1, path:"),
    "unknown_ending": HEAD.replace("flights.csv", "flights.xlsx"),
    "available_without_time": HEAD.replace("time: sched_dep", "available: {late: 3h}"),
    "bad_cutoff": HEAD + "cutoff: last month\n",
    "cutoff_with_zone": HEAD + "cutoff: 2013-04-01T00:00:00Z\n",
    "bad_policies": HEAD
    + "policies:\n  rollout:\n    fast: {steps: [5, 150%], deadline: soon}\n"
    + "  retrain:\n    weekly: {when: [schedule, drifts]}\n    daily: {when: [schedule]}\n",
    "errors_in_defaults": model().replace("defaults: {", "defaults: {limits: {time: 5}, "),
    # gates
    "bare_gate": model(gates="{roc_auc: 0.6}"),
    "gate_without_threshold": model(gates="{roc_auc: {on_inconclusive: keep}}"),
    "gate_unknown_key": model(gates="{roc_auc: {minimum: 0.6}}"),
    "unknown_metric": model(gates="{roc_auk: {min: 0.6}}"),
    "metric_of_another_task": model(gates="{mae: {max: 3}}"),
    "pooled_alone": model(gates="{log_loss: {vs_champion: not_worse, on_inconclusive: pooled}}"),
    "margin_alone": model(gates="{log_loss: {max: 1, margin: 2%}}"),
    "bad_example": model(gates="{examples: [{input: {hour: 1}, expect: {probabilty: [0.9, 0.1]}}]}"),
    "example_of_unknown_output": model(gates="{examples: [{input: {hour: 1}, expect: {late: true}}]}"),
    # known, not carried out
    "later_gates": model(gates="{slices: {by: dest}, latency: {p99: 5ms}, size: 20MB}"),
    "later_models": HEAD
    + "models:\n  a: {artifact: s3://bucket/model.onnx, format: onnx}\n  b: {remote: {url: http://x}}\n"
    + '  c: {train: {submit: "m:f"}, data: flights, task: binary, features: [a], target: b}\n',
    "later_sources": "portfolio: demo\ndata:\n  a: {path: s3://bucket/a.parquet}\n"
    "  b: {url: postgres://x, query: select 1}\n"
    "  c: {path: c.csv, checks: {fresh: 26h}}\n  d: {dbt: orders}\n",
    "forecast": model(task="forecast"),
    # what does not fit together
    "unknown_names": model(data="flight", environment="bas", rollout="careful", retrain="weekly"),
    "unknown_upstream": model(needs="[dealy]"),
    "need_not_in_features": model(needs="[delay]"),
    "need_wrong_output": model(needs="{delay: {output: minute}}", features="[hour, delay]"),
    "need_wrong_input": model(needs="{delay: {inputs: {hours: hour}}}", features="[hour, delay]"),
    "target_among_features": model(features="[hour, late]"),
    "circle": model(needs="[delay]", features="[delay]").replace(
        "target: minutes}", "target: minutes, needs: {late: {column: hour}}}"
    ),
    "two_tables_in_a_mapping": model(data="{flights: {}, weather: {}}"),
    "placeholder_in_a_single_model": model(data='{flights: {where: {origin: "{origin}"}}}'),
    "family_without_for_each": family(for_each=""),
    "for_each_of_unknown_table": family(for_each="{distinct: [origin], of: flihgts}"),
    "unused_placeholder": family(for_each="{distinct: [origin, carrier], of: flights}"),
    "placeholder_not_found": family("late-{origin}-{carrier}"),
    "unknown_placeholder_in_filter": family(data='{flights: {where: {origin: "{orign}"}}}'),
    "need_with_placeholders_without_column": family(needs='["late-{origin}"]'),
    "override_of_nobody": family(for_each="[JFK, LGA]", override="{EWR: {params: {a: 1}}, 'JFK,B6': {}}"),
    "override_with_unknown_key": family(override="{JFK: {parms: {a: 1}, for_each: [x]}}"),
    "override_without_value": family(override="{JFK: {rollout: , gates: {roc_auc: null}}}"),
    "value_twice": family(for_each="[JFK, LGA, JFK]"),
    "bad_model_name": HEAD + "models:\n  late/jfk: {}\n",
    "select_of_nobody": model() + "endpoints:\n  late: {select: lates, fallback: {model: late-global}}\n",
    "fallback_reason": model() + "endpoints:\n  late: {select: late, fallback: {model: delay, when: [unkown]}}\n",
    "rename_of_a_declared_model": model(was="delay"),
    "missing_include": HEAD + "include: [models/late.yaml]\n",
    # options of serving
    "cache_typo": model() + "endpoints:\n  late: {select: late, cache: {fro: 60s, answers: 0}}\n",
    "cache_for_ever": model()
    + "endpoints:\n  late: {select: late, cache: {for: 0s}}\n  b: {select: late, cache: 60s}\n",
    "journal_typo": model()
    + "endpoints:\n  late: {select: late, journal: {tensors: allways, dorp: [hour]}}\n"
    + "  b: {select: late, journal: {tensors: 1.5}}\n  c: {select: late, journal: {drop: [hour], hash: [hour]}}\n",
    "journal_of_unknown_field": model(needs="{delay: {inputs: {hour: sched_hour}}}", features="[dest, delay]")
    + "endpoints:\n  late: {select: late, journal: {drop: [dest, shced_hour], hash: [hour, destination]}}\n",
    "serve_typo": model(serve="{pined: true, concurrency: 0}"),
    "serve_pinned_yes": model(serve="{pinned: yes}"),
}
