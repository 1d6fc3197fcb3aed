"""What users type becomes a configuration, or one line that names the mend."""

import sysconfig

import pytest

from launch.compose import as_yaml, compose
from launch.verbs import VERBS
from trainer.config import EvaluateVerb, Generate, Pretrain, TrainingSet
from trainer.config.names import as_name, check_name
from trainer.config.values import check_values
from trainer.errors import ConfigError


@pytest.fixture
def my_conf(tmp_path):
    """A user's own folder of groups."""
    files = {
        "data/my_data.yaml": "name: mine\ntrain: {a: {path: /a, weight: 2}}\n",
        "data/misspelt.yaml": "pth: x\n",
        "data/wrong_type.yaml": "sequence_length: long\n",
        "data/broken.yaml": "a: [\n",
        "experiment/first.yaml": (
            "# @package _global_\ndefaults:\n  - override /schedule: wsd\ntrain: {steps: 7}\noptimizer: {lr: 1e-4}\n"
        ),
    }
    return write_files(tmp_path, files)


def write_files(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def message(*overrides, verb="pretrain", config_dir=None):
    with pytest.raises(ConfigError) as caught:
        compose(verb, overrides, config_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_compose_for_verbs_with_ranks():
    assert isinstance(compose("pretrain", []), Pretrain)
    assert isinstance(compose("evaluate", ["run.dir=x"]), EvaluateVerb)


def test_groups_choose_and_keys_override():
    config = compose("pretrain", ["schedule=wsd", "train.steps=5", "optimizer.lr=1e-4", "train.compile=true"])
    assert (config.schedule.name, config.train.steps, config.optimizer.lr) == ("wsd", 5, 1e-4)
    assert config.train.compile is True


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("modle=tiny", "model"),
        ("model=tinny", "model=tiny"),
        ("train.stepz=5", "train.steps"),
        ("trian.steps=5", "train.steps"),
        ("optimizer.learning_rate=1", "optimizer.lr"),
        ("lr=1", "optimizer.lr"),
        ("zero_stage=1", "parallel.zero_stage"),
        ("data.tokenizer.train.vocabsize=8", "data.tokenizer.train.vocab_size"),
        ("data.train.web.pth=/x", "data.train.web.path"),
        ("data.train.web={pth: /x}", "data.train.web.path"),
        ("train={stepz: 5}", "train.steps"),
        ("train.steps", "train.steps=…"),
        ("tiny", "model=tiny"),
    ],
)
def test_misspelt_name_is_answered_with_its_nearest_neighbour(override, nearest):
    assert message(override).endswith(f"did you mean {nearest}?")


def test_unknown_key_of_a_section_lists_the_section():
    assert message("schedule.steepness=1").endswith("schedule has name, warmup_steps, min_ratio, decay_fraction.")


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("train.steps=abc", "an integer or null"),
        ("train.steps=1,2", "an integer or null"),
        ("train.steps=", "an integer or null"),
        ("train.batch_size=null", "an integer"),
        ("optimizer.lr=[1", "a number"),
        ("train.compile=7", "true, false or auto"),
        ("data.train.web.weight=heavy", "a number"),
        ("data.train=3", "a mapping {name: value}"),
    ],
)
def test_wrong_type_names_key_value_and_type(override, wanted):
    assert message(override) == f"{override}: must be {wanted}."


@pytest.mark.parametrize(
    "override",
    [
        "+",
        "=3",
        "model={hidden_size: 4}",
        "~train.steps",
        "~model",
        "parallel=zero3",
        "run.name=${nope}",
        "hydra.run.dir=x",
    ],
)
def test_what_cannot_be_read_is_one_line(override):
    assert message(override)


def test_mixture_needs_no_plus_and_takes_the_place_of_the_default_data():
    data = compose(
        "pretrain",
        ["data.train.web.path=/a b/(1)=x", "data.train.code={path: /c, weight: 3}", "data.validation.held.path=/v"],
    ).data
    assert data.train == {"web": TrainingSet("/a b/(1)=x", 1.0), "code": TrainingSet("/c", 3.0)}
    assert data.validation["held"].path == "/v"
    assert (data.path, data.name) == (None, "web-code")


def test_mixture_of_a_file_is_changed_entry_by_entry(my_conf):
    overrides = ["data=my_data", "data.train.a.weight=5", "data.train.b.path=/b"]
    data = compose("pretrain", overrides, my_conf).data
    assert data.train == {"a": TrainingSet("/a", 5.0), "b": TrainingSet("/b", 1.0)}
    assert data.name == "mine"
    data = compose("pretrain", ["data=my_data", "~data.train.a", "data.train.b.path=/b"], my_conf).data
    assert list(data.train) == ["b"]


def test_data_path_gives_the_data_its_name():
    assert compose("pretrain", ["data.path=/some/my set"]).data.name == "my-set"
    assert compose("pretrain", ["data.path=/some/set", "data.name=other"]).data.name == "other"


def test_tokens_and_steps_take_each_others_place():
    train = compose("pretrain", ["train.tokens=1e9"]).train
    assert (train.steps, train.tokens) == (None, 1_000_000_000)
    train = compose("pretrain", ["train.steps=10"]).train
    assert (train.steps, train.tokens) == (10, None)


def test_text_is_taken_as_typed():
    overrides = ["run.name=007", "run.dir=/a,b (c)=d", "data.tokenizer.path=it's"]
    config = compose("pretrain", [*overrides, 'data.name="quoted"', "track.wandb.group=${model.name}-x"])
    assert (config.run.name, config.run.dir, config.data.tokenizer.path) == ("007", "/a,b (c)=d", "it's")
    assert (config.data.name, config.track.wandb.group) == ("quoted", "tiny-x")


def test_one_value_is_a_list_where_a_list_is_wanted():
    overrides = ["data.input=/a (b)/*.txt", "data.include=.a,.b", "data.exclude=[c,d]"]
    config = compose("pretrain", [*overrides, "track.wandb.tags=${python_stdlib:}"])
    assert (config.data.input, config.data.include) == (["/a (b)/*.txt"], [".a", ".b"])
    assert (config.data.exclude, config.track.wandb.tags) == (["c", "d"], [sysconfig.get_path("stdlib")])


def test_a_path_with_a_comma_is_read_whole_where_it_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a,b", "c", "d", "c,d"):
        (tmp_path / folder).mkdir()

    def given(value):
        return compose("prepare", [f"data.input={value}"]).data.input

    assert given("a,b") == given("'a,b'") == given('["a,b"]') == ["a,b"]
    assert given("c,a,b,d") == ["c", "a,b", "d"]
    assert given("a,b/*.txt,c/*.txt,d/*.txt") == ["a,b/*.txt", "c/*.txt", "d/*.txt"]
    assert given("x,y") == ["x", "y"]
    with pytest.raises(ConfigError, match=r'one path or several\? Write \'data.input=\["c,d"\]\' or'):
        given("c,d")


@pytest.mark.parametrize("prompt", ["def f(x, y=1):\n", "${a} 'b' \"c\" [1, {2} ", "null"])
def test_prompt_is_taken_to_the_letter(prompt):
    config = compose("generate", [f"prompt={prompt}"])
    assert isinstance(config, Generate)
    assert config.prompt == prompt


def test_null_is_no_prompt_where_there_may_be_none():
    assert compose("pretrain", ["evaluate.prompt=null"]).evaluate.prompt is None


def test_anything_goes_into_deepspeed():
    config = compose("pretrain", ["deepspeed.zero_optimization.reduce_scatter=false", "deepspeed.comms={a: 1}"])
    assert config.deepspeed == {"zero_optimization": {"reduce_scatter": False}, "comms": {"a": 1}}


def test_own_folder_adds_choices_and_experiments(my_conf):
    assert compose("pretrain", ["data=my_data"], my_conf).data.train["a"].weight == 2
    config = compose("pretrain", ["experiment=first"], my_conf)
    assert (config.train.steps, config.optimizer.lr, config.schedule.name) == (7, 1e-4, "wsd")


def test_mistakes_in_own_files_name_file_and_key(my_conf):
    assert message("data=misspelt", config_dir=my_conf).startswith("data/misspelt.yaml: data.pth: pretrain has no such")
    assert message("data=wrong_type", config_dir=my_conf) == (
        "data/wrong_type.yaml: data.sequence_length: must be an integer."
    )
    assert "broken.yaml, line " in message("data=broken", config_dir=my_conf)
    assert message(config_dir=my_conf / "nowhere").endswith("no such folder.")


def test_yaml_shows_the_configuration():
    assert "prompt: '${x}: é'" in as_yaml(compose("generate", ["prompt=${x}: é"]))


def of_experiment(tmp_path, body, *overrides, head="# @package _global_\n", extra=None):
    """What pretrain makes of an experiment file, and of what is typed beside it."""
    folder = write_files(tmp_path, {"experiment/mine.yaml": head + body, **(extra or {})})
    return compose("pretrain", ["experiment=mine", *overrides], folder)


def test_an_experiment_file_means_what_the_same_keys_mean_when_typed(tmp_path):
    config = of_experiment(tmp_path, "data: {path: /some/where/c4-en}\ntrain: {tokens: 1000000}\n")
    typed = compose("pretrain", ["data.path=/some/where/c4-en", "train.tokens=1e6"])
    assert config == typed
    assert (config.data.name, config.data.input, config.train.steps) == ("c4-en", [], None)


def test_an_experiment_s_mixture_takes_the_place_of_the_default_data(tmp_path):
    config = of_experiment(tmp_path, "data: {train: {web: {path: /w, weight: 3}, code: {path: /c}}}\n")
    assert (config.data.path, config.data.name) == (None, "web-code")
    assert config.data.train == {"web": TrainingSet("/w", 3.0), "code": TrainingSet("/c")}


def test_an_experiment_s_own_name_and_choices_stay(tmp_path):
    body = "defaults:\n  - override /data: custom\n  - override /model: llama_125m\ndata: {path: /x/y, name: mine}\n"
    config = of_experiment(tmp_path, body)
    assert (config.data.name, config.model.name) == ("mine", "llama_125m")
    config = of_experiment(tmp_path, body.replace(", name: mine", ""))
    assert config.data.name == "y"


def test_what_is_typed_wins_over_an_experiment_file(tmp_path):
    config = of_experiment(tmp_path, "data: {path: /x/y}\ntrain: {tokens: 5}\n", "train.steps=7", "data.path=/a/b")
    assert (config.train.steps, config.train.tokens) == (7, None)
    assert (config.data.path, config.data.name) == ("/a/b", "b")


def test_an_experiment_that_is_not_global_is_told_of_its_first_line(tmp_path):
    for head in ("", "# mine\n# @package _global_\n", "# @package train\n", "# @package\n", "# @package _global_ x\n"):
        with pytest.raises(ConfigError, match=r"experiment/mine\.yaml: .*`# @package _global_`"):
            of_experiment(tmp_path, "train: {steps: 4}\n", head=head)
    with pytest.raises(ConfigError, match=r"experiment/base\.yaml: its first line"):
        of_experiment(tmp_path, "defaults: [base]\n", extra={"experiment/base.yaml": "train: {steps: 4}\n"})


def test_a_byte_order_mark_is_dropped_and_another_encoding_is_named(tmp_path):
    assert of_experiment(tmp_path, "train: {steps: 4}\n", head="\ufeff# @package _global_\r\n").train.steps == 4
    (tmp_path / "experiment" / "mine.yaml").write_bytes("# @package _global_\nseed: 1 # 种子\n".encode("gbk"))
    assert "isn't UTF-8; save the file as UTF-8" in message("experiment=mine", config_dir=tmp_path)


def test_text_from_the_environment_is_used_and_shown_as_it_was_written(monkeypatch, tmp_path):
    monkeypatch.setenv("WHERE", "/somewhere/c4")
    monkeypatch.setenv("SIZE", "12")
    config = compose("pretrain", ["data.path=${oc.env:WHERE}/en", "train.steps=${oc.env:SIZE}", "deepspeed.x=${seed}"])
    assert (config.data.path, config.data.name, config.train.steps) == ("/somewhere/c4/en", "en", 12)
    assert "  path: ${oc.env:WHERE}/en\n" in as_yaml(config)
    assert "  steps: 12\n" in as_yaml(config)
    config = of_experiment(tmp_path, "data: {path: '${oc.env:WHERE}', licence: '${data.path}'}\n")
    assert config.data.licence == "/somewhere/c4"
    assert "  licence: ${data.path}\n" in as_yaml(config)


NAMES = [
    "../x", "a/b", "/x", "..", ".", "", ".x", "-x", " x", "x ", "x.", "x\ny", "x\ty", "x\0y", "a%jb", 'a"b', "a'b",
    "a`b", "a$b", "a\\b", "a;b", "a#b", "a*b", "a~b", "a:b", "a@b", "a|b", "a\u202eb", "a\u200bb", "x" * 121, "文" * 41,
]  # fmt: skip


@pytest.mark.parametrize("key", ["run.name", "data.name", "model.name"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_what_is_no_name_is_refused_wherever_a_name_is_wanted(key, name):
    config = Pretrain()
    section, field = key.split(".")
    setattr(getattr(config, section), field, name)
    with pytest.raises(ConfigError) as caught:
        check_values(config)
    assert str(caught.value).startswith(f"{key}=")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x", "_x", "c4-en.v1", "a+b=c,d", "my run", "第一次", "हिन्दी", "x" * 120])
def test_names_of_any_script_are_taken(name):
    config = compose("pretrain", [f"run.name={name}"])
    check_values(config)
    assert config.run.name == name


@pytest.mark.parametrize("name", ["../..", "a b", "%j", "$x", ".hidden", "", "文" * 200, "a/b", "x" * 500])
def test_a_folder_s_name_becomes_one(name):
    check_name("data.name", as_name(name))


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEYKEYKEY:SECRETSECRET@bucket/x",
        "s3://KEYKEYKEY@bucket",
        "https://me:pa55word@example.org/x",
        "https://ghp_abc@github.com/x.git",
        "sftp://me:pa55word@host/x",
        "https://b.s3.amazonaws.com/x?X-Amz-Credential=AKIA&X-Amz-Signature=0af3",
        "https://x.blob.core.windows.net/y?sv=2024&sig=abc%3D",
        "https://example.org/x?a=b&access_token=SECRETSECRET",
        "simplecache::s3://KEYKEYKEY:SECRETSECRET@bucket/x",
    ],
)
@pytest.mark.parametrize(
    "override",
    ["data.path={}", "checkpoint.dir={}", "deepspeed.a={{b: '{}'}}", "track.wandb.tags=['{}']", "data.pth={}", "{}",
     "data.train.web.path={}", "data.validation={{x: {{path: '{}'}}}}", "+x.y={}", "run.name={}"],
)  # fmt: skip
def test_credentials_in_urls_are_refused_and_not_repeated(url, override):
    line = message(override.format(url))
    assert "credential" in line
    assert not any(secret in line for secret in ("KEYKEYKEY", "SECRETSECRET", "pa55word", "ghp_abc", "0af3", "AKIA"))


def test_a_refusal_names_the_variables_for_credentials():
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message("checkpoint.dir=s3://KEY:SECRET@bucket/run")


@pytest.mark.parametrize("url", ["s3://bucket/a@b", "ssh://git@host/x", "https://example.org/?page=2#key=x", "a@b:c"])
def test_urls_without_credentials_are_taken(url):
    assert compose("pretrain", [f"data.licence={url}"]).data.licence == url


def test_a_secret_of_the_environment_is_refused_where_it_was_typed_or_would_be_seen(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    for override in (
        "deepspeed.a=0123456789abcdef",
        "evaluate.prompt=x 0123456789abcdef",
        "data.licence=x0123456789abcdefx",
    ):
        assert "holds the value of WANDB_API_KEY" in message(override)
    for key in ("run.name", "data.name", "run.dir", "track.wandb.project"):
        assert "WANDB_API_KEY is a secret by its name" in message(f"{key}=a${{oc.env:WANDB_API_KEY}}")
    with pytest.raises(ConfigError, match="holds the value of WANDB_API_KEY"):
        of_experiment(tmp_path, "deepspeed: {a: [0123456789abcdef]}\n")


def test_verbs_that_share_a_schema_s_name_take_turns():
    for verb in ("pretrain", "finetune", "pretrain"):
        assert type(compose(verb, [])) is VERBS[verb].schema


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_an_objective_s_packing_wins_over_the_verb_s_own_but_not_over_what_is_typed(verb):
    packing = {"reward": "single", "classify": "single", "tag": "single", "masked": "stream", "seq2seq": "single"}
    packing |= {"dpo": "whole", "simpo": "whole", "orpo": "whole", "distill": "whole"}
    for name, wanted in packing.items():
        assert compose(verb, [f"objective={name}"]).data.packing == wanted
        assert compose(verb, [f"objective={name}", "data.packing=stream"]).data.packing == "stream"
    asked = compose(verb, ["objective=distill", "objective.teacher=DIR"]).data.packing
    assert asked == compose(verb, []).data.packing


def test_of_pairs_of_answers_none_is_cut_whatever_the_verb():
    for name in ("reward", "dpo", "simpo", "orpo"):
        assert compose("finetune", [f"objective={name}"]).data.long_documents == "reject"
