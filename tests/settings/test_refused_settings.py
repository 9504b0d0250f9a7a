"""Settings are refused with everything that is wrong with them, each with its line and way out."""

from __future__ import annotations

import re

import pytest

from orchestrator.settings import parse
from tests.settings.refusing import GOOD, refusal

# --- what is refused, one thing at a time ----------------------------------------------------------------------------


PLACED = [
    ("models: {a: }\nlistem: x", "cluster.yaml:2:1: listem: no such setting; did you mean 'listen'?"),
    ("models:\n  a: {slot: 3}", "cluster.yaml:2:7: models.a.slot: no such setting; did you mean 'slots'?"),
    (
        "models:\n  a: {workers: 3}",
        "cluster.yaml:2:7: models.a.workers: no such setting here; 'workers' belongs under gateway",
    ),
    (
        "models: {a: }\ngateway: {zzz: 3}",
        "cluster.yaml:2:11: gateway.zzz: no such setting; settings here are: workers",
    ),
    (
        "models:\n  a:\n    slots: '4'",
        "cluster.yaml:3:12: models.a.slots: expected a whole number from 1 to 64, such as slots: 2; got '4'",
    ),
    (
        "models: {a: {slots: true}}",
        "cluster.yaml:1:21: models.a.slots: expected a whole number from 1 to 64, such as slots: 2; got true",
    ),
    (
        "models: {a: {slots: 65}}",
        "cluster.yaml:1:21: models.a.slots: expected a whole number from 1 to 64, such as slots: 2; got 65",
    ),
    (
        "models: {a: {slots: 2.0}}",
        "cluster.yaml:1:21: models.a.slots: expected a whole number from 1 to 64, such as slots: 2; got 2.0",
    ),
    (
        "models: {a: {slots: }}",
        "cluster.yaml:1:20: models.a.slots: expected a whole number from 1 to 64, such as slots: 2; got nothing",
    ),
    (
        "models: {a: {replicas: 0}}",
        "cluster.yaml:1:24: models.a.replicas: "
        "expected a whole number from 1 to 1024 or fill or auto, such as replicas: 1; got 0",
    ),
    (
        "models: {a: {embedding: yes}}",
        "cluster.yaml:1:25: models.a.embedding: expected true or false, such as embedding: false; got 'yes'",
    ),
    (
        "models: {a: }\nlimits: {queue_wait_s: .inf}",
        "cluster.yaml:2:24: limits.queue_wait_s: expected a number above 0, at most 86400, such as queue_wait_s: 60.0; "
        "got inf",
    ),
    (
        "models: {a: {gguf: [x]}}",
        "cluster.yaml:1:14: models.a.gguf: expected a path, such as gguf: models/mistral-7b.Q4_K_M.gguf; got a list",
    ),
    (
        "models: {a: }\nengine: olama",
        "cluster.yaml:2:9: engine: expected auto, ollama or llama.cpp, such as engine: auto; got 'olama'",
    ),
    (
        "models: {a: }\nlisten: 11434",
        "cluster.yaml:2:9: listen: expected text, such as listen: 0.0.0.0:11434; got 11434, which in quotes is text",
    ),
    (
        "models: {}",
        "cluster.yaml:1:1: models: needs one entry at least, such as models: {NAME: {slots: 2}}; or name `instances` "
        "that run already",
    ),
    (
        "redis: embedded",
        "cluster.yaml:1:1: models: needs one entry at least, such as models: {NAME: {slots: 2}}; or name `instances` "
        "that run already",
    ),
    (
        "instances: [{model: a}]",
        "cluster.yaml:1:13: instances[0].url: is missing; write text, such as url: http://10.0.0.5:11434",
    ),
    (
        "instances: [{url: 'ftp://gpu-1:443'}]",
        "cluster.yaml:1:19: instances[0].url: expected http://host:port, such as http://10.0.0.5:11434, or "
        "https://host:port",
    ),
    (
        "instances: [{url: 'gpu-1:11434'}]",
        "cluster.yaml:1:19: instances[0].url: expected http://host:port, such as http://10.0.0.5:11434, or "
        "https://host:port",
    ),
    (
        "instances: [{url: 'http://gpu-1:11434/v1'}]",
        "cluster.yaml:1:19: instances[0].url: an instance has its API at the root; end the URL after the port",
    ),
    (
        "instances: [{url: 'http://gpu-1'}]",
        "cluster.yaml:1:19: instances[0].url: expected host:port, such as 127.0.0.1:11434 or [::]:11434; got 'gpu-1'",
    ),
    (
        "instances: [{url: 'http://gpu-1:0'}]",
        "cluster.yaml:1:19: instances[0].url: the port must be a number from 1 to 65535",
    ),
    (
        "instances: [{url: 'http://me:secret@gpu-1:1'}]",
        "cluster.yaml:1:19: instances[0].url: neither Ollama nor llama.cpp asks for a user; leave out what stands "
        "before the `@`",
    ),
    (
        "instances: [{url: 'http://[::1]:1'}]",
        "cluster.yaml:1:19: instances[0].url: an IPv6 address is not taken here; name the host, as /etc/hosts or DNS "
        "knows it",
    ),
    (
        "instances: [{url: 'http://a:1', slots: 0}]",
        "cluster.yaml:1:40: instances[0].slots: "
        "expected a whole number from 1 to 1024 or probe, such as slots: 4; got 0",
    ),
    (
        "instances: [{url: 'http://a:1', model: [a, 'b c']}]",
        "cluster.yaml:1:44: instances[0].model[1]: expected a model's name: letters, digits and . _ : / @ -, a letter "
        "or digit first; got 'b c'",
    ),
    (
        "instances: [{url: 'http://a:1', model: {a: }}]",
        "cluster.yaml:1:33: instances[0].model: expected a model's name: letters, digits and . _ : / @ -, a letter or "
        "digit first or a list of such, such as model: llama3.2:3b; got a mapping",
    ),
    (
        "instances: [{url: 'http://a:1'}, {url: 'http://a:1/'}]",
        "cluster.yaml:1:40: instances[1].url: is there already, as instances[0]; keep one of them",
    ),
    (
        "instances: [{url: 'http://a:1', model: [x, y]}, {url: 'http://a:1', model: 'x:latest'}]",
        "cluster.yaml:1:76: instances[1].model: instances[0] has 'x:latest' of this URL already; keep one of them",
    ),
    (
        "instances: [{url: 'http://a:1', model: x, name: one}, {url: 'http://a:1', model: y, name: two}]",
        "cluster.yaml:1:91: instances[1].name: instances[0] has the same URL and says otherwise; keep one of them",
    ),
    (
        "instances: [{url: 'http://a:1', name: one}, {url: 'http://b:1', name: one}]",
        "cluster.yaml:1:71: instances[1].name: instance 'one' is there already, as instances[0]; give this one another "
        "name",
    ),
    (
        "instances: [{url: 'http://a:1', model: 'gpt-oss:120b-cloud'}]",
        "cluster.yaml:1:40: instances[0].model: 'gpt-oss:120b-cloud' is served by ollama.com: prompts would leave the "
        "cluster; name one that is downloaded",
    ),
    (
        "instances: [{url: 'http://a:1'}]\nmodels: {x: {slots: 3, replicas: 2}}",
        "cluster.yaml:2:34: models.x.replicas: is of no use beside `instances`: nothing is deployed; leave it out",
    ),
    (
        "instances: [{url: 'http://a:1'}]\nengine: ollama",
        "cluster.yaml:2:9: engine: is of no use beside `instances`: nothing is deployed; leave it out",
    ),
    (
        "instances: [{url: 'http://a:1', model: x}]\nroutes:\n  x: {small: t, full: t}\ntiers: {t: {model: x}}",
        "cluster.yaml:3:3: routes.x: 'x' is a model already; give the route another name",
    ),
    (
        "models: [a]",
        "cluster.yaml:1:1: models: expected a mapping from names to settings, such as models: {NAME: {slots: 2}}; "
        "got a list",
    ),
    ("models: {a: }\nnodes: []", "cluster.yaml:2:1: nodes: needs one entry at least, such as nodes: [{name: gpu-1}]"),
    (
        "models: {a: }\nnodes:\n  - name: GPU 1",
        "cluster.yaml:3:11: nodes[0].name: expected lower-case letters, digits and hyphens, at most 63, a letter or "
        "digit first, such as name: gpu-1; got 'GPU 1'",
    ),
    (
        "models: {a: }\ncache: {faq: x.yaml}",
        "cluster.yaml:2:14: cache.faq: expected a list of paths, such as faq: [faq.yaml]; got 'x.yaml'",
    ),
    (
        "models:\n  'a b':",
        "cluster.yaml:2:3: models.\"a b\": 'a b' cannot be a name here; expected a model's name: letters, digits and "
        ". _ : / @ -, a letter or digit first",
    ),
    (
        "models: {a: }\nnodes: [{name: a}, {name: b, address: h-1234}, {name: c}]",
        "cluster.yaml:2:48: nodes[2]: node 'a' is this machine already; remove one of them",
    ),
    (
        "models: {a: }\nnodes: [{name: a}, {name: a, address: h}]",
        "cluster.yaml:2:27: nodes[1].name: node 'a' is there already, as nodes[0]; give this one another name or "
        "remove it",
    ),
    *(
        (
            f"models: {{a: }}\nnodes: [{{name: a{real}}}, {{name: b, simulate: 1x L4}}]",
            "nodes[1].simulate: node 'a' is real, and played cards answer with played texts; play all nodes, or leave "
            "this out",
        )
        for real in ("", ", address: h")
    ),
    (
        "models: {a: {share: 2}}",
        "cluster.yaml:1:21: models.a.share: only pools with `replicas: fill` share room; set that or leave this out",
    ),
    (
        "models:\n  a:latest:\n  a:",
        "cluster.yaml:2:3: models.\"a:latest\": is the same model as 'a'; keep one of them",
    ),
    (
        "models:\n  a:\n  gpt-oss:120b-cloud:",
        'cluster.yaml:3:3: models."gpt-oss:120b-cloud": is served by ollama.com: prompts would leave the cluster; name '
        "a model that is downloaded",
    ),
    (GOOD.replace("{slots: 1}", "{slots: 1, slots: 1}"), "written twice, first on line 3; keep one of them"),
    (
        GOOD.replace("model: big-model", "model: bigmodel"),
        "cluster.yaml:7:17: tiers.full.model: no such model 'bigmodel'; did you mean 'big-model'? models are: "
        "small-model, big-model, words",
    ),
    (
        GOOD.replace("model: big-model", "model: words"),
        "cluster.yaml:7:17: tiers.full.model: 'words' embeds text and answers nothing; models that can be: "
        "small-model, big-model",
    ),
    (
        GOOD.replace("backup: small", "backup: xyz"),
        "cluster.yaml:7:36: tiers.full.backup: no such tier 'xyz'; tiers are: small, full",
    ),
    (
        GOOD.replace("backup: small", "backup: full"),
        "cluster.yaml:7:36: tiers.full.backup: a tier is no backup of itself; tiers that can be: small",
    ),
    (
        GOOD.replace("auto:", "auto: {full: big}"),
        "cluster.yaml:9:16: routes.auto.full: no such tier 'big'; tiers are: small, full",
    ),
    (
        "models: {a: }\nroutes:\n  auto: {full: big, small: big}\ntiers:",
        "cluster.yaml:3:16: routes.auto.full: no such tier 'big'; there are no tiers yet",
    ),
    (
        GOOD.replace("  auto:", "  auto:\n  words:"),
        "cluster.yaml:10:3: routes.words: 'words' is a model already; give the route another name",
    ),
    (
        GOOD.replace("  auto:", "  auto:\n  words:latest:"),
        "cluster.yaml:10:3: routes.\"words:latest\": 'words' is a model already; give the route another name",
    ),
    (
        GOOD.replace("routes:", "  deep: {model: big-model}\nroutes:"),
        "cluster.yaml:8:3: tiers.deep: no route uses this tier; name it in a route, or as `backup` of a tier that a "
        "route reaches, or remove it",
    ),
]


@pytest.mark.parametrize(("text", "expected"), PLACED, ids=[expected[13:60] for _, expected in PLACED])
def test_each_mistake_is_told_with_line_column_field_and_way_out(text, expected):
    assert any(expected in line for line in refusal(text))


@pytest.mark.parametrize("text", [text for text, _ in PLACED])
def test_each_mistake_breeds_no_other(text):
    assert len(refusal(text)) == (2 if "small: big" in text else 1)


def test_a_backups_own_backup_is_a_use_of_a_tier():
    text = GOOD.replace("routes:", "  deep: {model: big-model}\nroutes:")
    text = text.replace("model: small-model, backup: full", "model: small-model, backup: mid")
    text = text.replace("routes:", "  mid: {model: big-model, backup: deep}\nroutes:")
    assert [*parse(text, "cluster.yaml").tiers] == ["small", "full", "deep", "mid"]


def test_every_line_of_a_refusal_names_file_line_column():
    for text, _ in PLACED:
        assert all(re.match(r"cluster\.yaml:\d+:\d+: \w", line) for line in refusal(text))


# --- all of it at once -----------------------------------------------------------------------------------------------


def test_all_that_is_wrong_is_listed_at_once_in_the_order_of_the_file():
    lines = refusal(
        "listen: nowhere\n"  # 1
        "models:\n"
        "  a: {slots: 0, slots: 1}\n"  # 3: a value, and a key written twice
        "  e: {embedding: true}\n"
        "nodes: [{name: n, simulate: none}]\n"  # 5
        "tiers:\n"
        "  small: {model: b, backup: smal}\n"  # 7: two references
        "  full: e\n"  # 8: a type
        "routes:\n"
        "  e: {small: x}\n"  # 10: a name, a reference
        "keys:\n"
        "  - 3\n"  # 12: an item that is nothing of the kind
        "  - {name: x, secret: short}\n"  # 13: counted as it is written
        "  - {name: x}\n"  # 14: repeated, and incomplete
        "wat: 1\n"
    )
    assert [int(line.split(":")[1]) for line in lines] == [1, 3, 3, 5, 7, 7, 8, 10, 10, 12, 13, 14, 14, 15]
    assert "keys[1].secret" in lines[10]
    assert "keys[2].secret: is missing" in lines[11]


def test_wrong_parts_are_not_said_to_be_missing():
    text = GOOD.replace("model: small-model,", "model: small-model, bakup: 3,").replace("auto:", "auto: {full: 3}")
    assert len(refusal(text)) == 2  # and no tier is said to be unused, though `full` is named by no valid route


def test_a_hopeless_file_does_not_flood_the_screen():
    lines = refusal("models: {a: }\n" + "".join(f"k{n}: 1\n" for n in range(300)))
    assert len(lines) == 101
    assert lines[-1] == "cluster.yaml: and 200 more"


def test_a_name_with_a_line_break_stays_on_its_line():
    assert len(refusal('models: {"a\\nb": }')) == 1
