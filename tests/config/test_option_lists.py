"""Every option of TRL's GRPOConfig and ModelConfig stands on one of three lists: used, passed through, refused.

USED are read by our code, or by TRL's from what ours gives it; each names the file of tests that reaches it. PASSED
have their effect in TRL, transformers or PEFT alone: the tests below look at what they did. REFUSED are those of
`config/checks.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import training_args
from trl import GRPOConfig, ModelConfig, get_peft_config

from tests.trainer_helpers import BENCH_MODEL, make_trainer, one_step
from vision_zero import train
from vision_zero.config.checks import NOT_USED, REFUSED
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.config.parse import parse, resolved
from vision_zero.models import load_model, load_processor

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["--images", "drawn:4", "--model_name_or_path", str(BENCH_MODEL), "--use_cpu", "--report_to", "none"]

USED = {
    "config/test_options": """
        output_dir per_device_train_batch_size max_steps gradient_accumulation_steps steps_per_generation
        learning_rate save_strategy save_steps logging_strategy use_cpu num_generations temperature top_p top_k beta
        num_iterations loss_type scale_rewards use_bias_correction_kl bf16 vllm_server_base_url vllm_server_host
        vllm_server_port vllm_server_timeout
    """,
    "trainer/test_vllm": """
        use_vllm vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_gpu_memory_utilization vllm_max_model_length
        vllm_tensor_parallel_size vllm_group_port vllm_importance_sampling_correction vllm_importance_sampling_mode
        vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min
    """,
    "trainer/test_resume": "save_total_limit seed lr_scheduler_type warmup_steps max_grad_norm use_peft lora_r",
    "trainer/test_gradient": "epsilon",
    "trainer/test_qlora": "load_in_4bit",
    "trainer/test_callbacks": "report_to run_name disable_tqdm logging_steps",
    "trainer/test_fsdp": "fsdp_config",
    "trainer/test_distributed": "deepspeed ddp_timeout lora_target_modules gradient_checkpointing",
    "test_train": "model_name_or_path attn_implementation trust_remote_code",
    "config/test_option_lists": "dtype lora_dropout mask_truncated_completions pad_to_multiple_of model_init_kwargs",
}
PASSED = """
    lr_scheduler_kwargs optim weight_decay adam_beta1 adam_beta2 adam_epsilon tf32 gradient_checkpointing_kwargs
    torch_empty_cache_steps logging_first_step log_on_each_node log_level log_level_replica project trackio_space_id
    trackio_bucket_id trackio_static_space_id dataloader_pin_memory ddp_find_unused_parameters ddp_bucket_cap_mb
    ddp_broadcast_buffers ddp_backend router_aux_loss_coef disable_dropout delta epsilon_high importance_sampling_level
    top_entropy_quantile off_policy_mask_threshold lora_alpha use_rslora
"""
LISTS = {
    "used": " ".join(USED.values()).split(),
    "passed": PASSED.split(),
    "refused": list(NOT_USED),
}
ALL = {one.name: one for part in (IterativeSPOConfig, ModelConfig) for one in fields(part)}
THEIRS = [one.name for part in (GRPOConfig, ModelConfig) for one in fields(part)]


def test_every_option_stands_on_one_list() -> None:
    on = {name: [words for words, names in LISTS.items() if name in names] for name in THEIRS}
    assert {name: where for name, where in on.items() if len(where) != 1} == {}
    listed = [name for names in LISTS.values() for name in names]
    assert sorted(set(listed) - set(THEIRS)) == [], "no longer an option of the pinned TRL"
    assert len(listed) == len(set(listed)), "one list has an option twice"
    assert all(reason.strip() and names.strip() for reason, names in REFUSED.items())
    assert all((ROOT / "tests" / f"{file}.py").is_file() for file in USED)


def test_the_refused_ones_are_in_the_documentation() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert [name for name in NOT_USED if f"`{name}`" not in text] == []


OTHER_VALUES: dict[str, Any] = {
    "accelerator_config": '{"split_batches": true}',
    "model_init_kwargs": '{"dtype": "bfloat16"}',
    "multi_objective_aggregation": "normalize_then_sum",
    "train_sampling_strategy": "sequential",
    "hub_strategy": "end",
    "lora_task_type": "SEQ_CLS",
    "bnb_4bit_quant_type": "fp4",
    "eval_strategy": "steps",
    "include_num_input_tokens_seen": "true",
    "dataloader_multiprocessing_context": "fork",
    "debug": "underflow_overflow",
    "fsdp": "full_shard",
}


NO_FLAG = {"parallelism_config": "tp", "liger_kernel_config": {"rope": True}}


def other_value(name: str) -> str:
    """Text of a flag that gives an option another value than its default."""
    default = ALL[name].default
    kind = str(ALL[name].type)
    if isinstance(default, bool) or "bool" in kind:
        return str(not default)
    if isinstance(default, (int, float)) or "int" in kind or "float" in kind:
        return str((default if default is not MISSING and default else 0) + 3)
    return '{"a": 1}' if kind.startswith("dict") else "other"


@pytest.mark.parametrize("name", [name for name in NOT_USED if name not in NO_FLAG])
def test_a_refused_option_says_why_and_what_to_do(name: str) -> None:
    value = OTHER_VALUES.get(name) or other_value(name)
    with pytest.raises(ValueError, match=r"\S") as refused:
        parse([*FLAGS, f"--{name}", value])
    message = str(refused.value)
    assert message.startswith(f"{name}=")
    assert message.endswith(NOT_USED[name])
    assert "\n" not in message
    if name == "hub_token":
        assert value not in message


def test_what_no_flag_can_give_is_refused_too(tmp_path: Path) -> None:
    for name, value in NO_FLAG.items():
        with pytest.raises(ValueError, match=rf"{name}=.* is not supported"):
            IterativeSPOConfig(output_dir=str(tmp_path), use_cpu=True, **{name: value})
    with pytest.raises(ValueError, match=r"model_init_kwargs=.* is not supported: use dtype"):
        parse([*FLAGS, "--model_init_kwargs", '{"dtype": "bfloat16"}'])


def test_the_defaults_are_accepted_and_so_is_the_file_that_they_are_written_to(tmp_path: Path) -> None:
    written = resolved(*parse(FLAGS))
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(written), "utf-8")
    assert resolved(*parse(["--config", str(file)])) == written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vllm_max_num_seqs", "4"], "vllm_max_num_seqs=4 has no effect without use_vllm=True"),
        (["--vllm_server_port", "1"], "vllm_server_port=1 has no effect without use_vllm=True"),
        (["--lora_r", "4"], "lora_r=4 has no effect without use_peft=True"),
        (["--lora_target_modules", "q_proj"], "lora_target_modules=q_proj has no effect without use_peft=True"),
        (["--use_rslora", "true"], "use_rslora=True has no effect without use_peft=True"),
        (["--optim", "adafactor"], "optim=adafactor must be one of adamw_torch, adamw_torch_fused, sgd"),
        (["--lr_scheduler_type", "reduce_lr_on_plateau"], "requires an eval strategy"),
        (["--importance_sampling_level", "word"], "importance_sampling_level=word must be one of token, sequence"),
        (["--top_entropy_quantile", "1.5"], "top_entropy_quantile=1.5 must be at most 1"),
        (["--top_entropy_quantile", "-0.5"], "top_entropy_quantile=-0.5 must be at least 0"),
        (["--adam_beta2", "2"], "adam_beta2=2.0 must be at most 1"),
        (["--delta", "0.5"], "delta=0.5 must be at least 1"),
        (["--epsilon", "-1"], "epsilon=-1.0 must be at least 0"),
        (["--off_policy_mask_threshold", "-1"], "off_policy_mask_threshold=-1.0 must be at least 0"),
        (["--pad_to_multiple_of", "0"], "pad_to_multiple_of=0 must be at least 1"),
    ],
)
def test_values_without_a_meaning_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as refused:
        parse([*FLAGS, *words])
    assert message in str(refused.value)


def test_options_of_the_other_mode_of_vllm_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_zero.config.checks.find_spec", lambda name: True)
    with pytest.raises(ValueError, match="vllm_server_port=1 is for vllm_mode=server"):
        parse([*FLAGS, "--use_vllm", "true", "--vllm_server_port", "1"])
    words = ["--use_vllm", "true", "--vllm_mode", "server", "--vllm_tensor_parallel_size", "2"]
    with pytest.raises(ValueError, match=r"vllm_tensor_parallel_size=2 .* NUM_GPUS of run_scripts/vllm_server.sh"):
        parse([*FLAGS, *words])


# ------------------------------------------------------------------------------------------------------ 16-bit weights


class Built(Exception):
    """The model would have been loaded now."""


def build(monkeypatch: pytest.MonkeyPatch, *words: str, **replaced: Any) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise Built

    monkeypatch.setattr(train, "IterativeSPOTrainer", stop)
    game, args, model = parse([*FLAGS, *words])
    for name, value in replaced.items():
        setattr(args, name, value)
    train.build(game, args, model, [], load_processor(model.model_name_or_path))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("bf16", ["true", "false"])
def test_full_training_of_16_bit_weights_is_refused(monkeypatch: pytest.MonkeyPatch, dtype: str, bf16: str) -> None:
    with pytest.raises(ValueError, match=rf"dtype={dtype} trains {dtype} weights.*--dtype float32.*--use_peft.*zero2"):
        build(monkeypatch, "--dtype", dtype, "--bf16", bf16)


def test_so_are_those_of_a_model_that_is_stored_in_16_bit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_model(str(BENCH_MODEL), dtype="bfloat16").save_pretrained(tmp_path)
    for file in BENCH_MODEL.iterdir():
        if not (tmp_path / file.name).exists():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    game, args, model = parse([*FLAGS, "--model_name_or_path", str(tmp_path), "--dtype", "auto"])
    args.use_cpu = False  # on a CPU auto is float32
    with pytest.raises(ValueError, match="dtype=auto trains bfloat16 weights"):
        train.build(game, args, model, [], load_processor(model.model_name_or_path))
    with pytest.raises(Built):
        build(monkeypatch, "--model_name_or_path", str(tmp_path), "--dtype", "auto")


class Masters:
    """A DeepSpeed file that turns float32 masters off, or not."""

    def __init__(self, without: bool) -> None:
        self.without = without

    def is_true(self, name: str) -> bool:
        return self.without and name == "bf16.bf16_master_weights_and_grads"


def test_16_bit_weights_are_trained_where_an_optimizer_has_them_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "zero3_disabled", lambda args: torch.no_grad())
    words = ("--dtype", "bfloat16", "--bf16", "true")
    with pytest.raises(Built):
        build(monkeypatch, *words, "--use_peft", "true", "--lora_dropout", "0")
    with pytest.raises(Built):
        build(monkeypatch, "--dtype", "float32", "--bf16", "true")
    with pytest.raises(Built):
        build(monkeypatch, *words, deepspeed="zero2.json", hf_deepspeed_config=Masters(without=False))
    with pytest.raises(ValueError, match="mostly rounded away"):
        build(monkeypatch, *words, deepspeed="zero2.json", hf_deepspeed_config=Masters(without=True))
    with pytest.raises(ValueError, match="mostly rounded away"):
        build(monkeypatch, *words[:2], deepspeed="zero2.json", hf_deepspeed_config=Masters(without=False))


# ------------------------------------------------------------------------------------------- passed through, and how


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One trainer with every option of PASSED that a CPU and one process can show, after its step."""
    model = load_model(str(BENCH_MODEL), dtype="float32", attn_implementation="sdpa")
    model.lm_head.register_module("drop", torch.nn.Dropout(0.5))
    with pytest.MonkeyPatch.context() as patch:
        emptied: list[int] = []
        patch.setattr("transformers.trainer.clear_device_cache", lambda: emptied.append(1))
        made = make_trainer(
            tmp_path_factory.mktemp("passed"),
            model=model,
            lr_scheduler_type="polynomial",
            lr_scheduler_kwargs={"lr_end": 5e-6, "power": 2.0},
            optim="adamw_torch",
            weight_decay=0.25,
            adam_beta1=0.5,
            adam_beta2=0.75,
            adam_epsilon=1e-3,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            torch_empty_cache_steps=1,
            logging_steps=2,
            logging_first_step=True,
            log_level="error",
            log_level_replica="critical",
            log_on_each_node=False,
            project="ours",
            dataloader_pin_memory=False,
            ddp_find_unused_parameters=False,
            ddp_bucket_cap_mb=7,
            ddp_broadcast_buffers=False,
            disable_dropout=True,
            delta=4.0,
            epsilon_high=0.5,
            importance_sampling_level="sequence",
            top_entropy_quantile=0.5,
            off_policy_mask_threshold=0.01,
        )
        made.step = one_step(made)
        made.emptied = emptied
    return made


def group(trainer: Any) -> dict[str, Any]:
    found: dict[str, Any] = max(trainer.optimizer.param_groups, key=lambda one: one["weight_decay"])
    return found


def ddp(trainer: Any) -> dict[str, Any]:
    found: dict[str, Any] = trainer.accelerator.ddp_handler.to_kwargs()
    return found


EFFECTS: dict[str, Callable[[Any], Any]] = {
    # polynomial with power 2: after the only step the rate is lr_end
    "lr_scheduler_kwargs": lambda t: t.lr_scheduler.get_last_lr()[0] == pytest.approx(5e-6),
    "optim": lambda t: type(t.optimizer.optimizer) is torch.optim.AdamW and not group(t)["fused"],
    "weight_decay": lambda t: group(t)["weight_decay"] == 0.25,
    "adam_beta1": lambda t: group(t)["betas"][0] == 0.5,
    "adam_beta2": lambda t: group(t)["betas"][1] == 0.75,
    "adam_epsilon": lambda t: group(t)["eps"] == 1e-3,
    "gradient_checkpointing_kwargs": lambda t: t.model.is_gradient_checkpointing,
    "torch_empty_cache_steps": lambda t: len(t.emptied) > 0,
    "logging_first_step": lambda t: t.state.log_history[0]["step"] == 1,
    "log_level": lambda t: t.args.get_process_log_level() == 40,
    "log_level_replica": lambda t: t.args.log_level_replica == "critical",
    "log_on_each_node": lambda t: not t.args.log_on_each_node and t.args.should_log,
    "dataloader_pin_memory": lambda t: not t.get_train_dataloader().pin_memory,
    "ddp_find_unused_parameters": lambda t: not ddp(t).get("find_unused_parameters"),
    "ddp_bucket_cap_mb": lambda t: ddp(t)["bucket_cap_mb"] == 7,
    "ddp_broadcast_buffers": lambda t: ddp(t)["broadcast_buffers"] is False,
    "disable_dropout": lambda t: t.model.lm_head.drop.p == 0,
}
LOSS_OPTIONS = {
    "delta": 4.0,
    "epsilon_high": 0.5,
    "importance_sampling_level": "sequence",
    "top_entropy_quantile": 0.5,
    "off_policy_mask_threshold": 0.01,
}


@pytest.mark.parametrize("name", EFFECTS)
def test_an_option_that_is_passed_through_has_its_effect(name: str, trainer: Any) -> None:
    assert EFFECTS[name](trainer)


@pytest.mark.parametrize("name", LOSS_OPTIONS)
def test_an_option_of_the_loss_changes_it(name: str, trainer: Any) -> None:
    """The batch that was trained on, as if the policy had moved since: with the option the loss is another one."""
    assert getattr(trainer, name, getattr(trainer.args, name)) == LOSS_OPTIONS[name], "given to the trainer"
    without = {"delta": None, "epsilon_high": 0.2, "importance_sampling_level": "token", "top_entropy_quantile": 1.0}
    batch = dict(trainer._buffered_inputs[0])
    moved = torch.linspace(-3, 3, batch["completion_ids"].numel()).view(batch["completion_ids"].shape)
    trainer.accelerator.gradient_state._set_sync_gradients(True)

    def loss(**options: Any) -> float:
        batch["old_per_token_logps"] = batch["sampling_per_token_logps"] + moved
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            for option, value in ({"off_policy_mask_threshold": None} | without | options).items():
                patch.setattr(trainer if hasattr(trainer, option) else trainer.args, option, value)
            return float(trainer._compute_loss(trainer.model, batch))

    batch["sampling_per_token_logps"] = batch["sampling_per_token_logps"] + (
        1.0 if name == "off_policy_mask_threshold" else 0.0
    )
    assert loss(**{name: LOSS_OPTIONS[name]}) != pytest.approx(loss(), rel=1e-4)


def test_the_step_with_all_of_them_trained(trainer: Any) -> None:
    assert any(gradient.abs().sum() > 0 for gradient in trainer.step.gradient.values())
    assert trainer.step.log["loss"] == trainer.step.log["loss"]


def test_adapters_have_their_alpha_and_their_scaling() -> None:
    words = ["--use_peft", "true", "--lora_dropout", "0", "--lora_r", "4", "--lora_alpha", "12", "--use_rslora", "true"]
    _, _, model = parse([*FLAGS, *words])
    made = get_peft_config(model)
    assert (made.r, made.lora_alpha, made.use_rslora, made.lora_dropout) == (4, 12, True, 0)


def test_options_of_the_process_reach_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    switched: list[bool] = []
    monkeypatch.setattr(training_args, "is_torch_tf32_available", lambda: True)
    monkeypatch.setattr(training_args, "enable_tf32", switched.append)
    given: dict[str, Any] = {}
    real = training_args.PartialState

    def state(*args: Any, **kwargs: Any) -> Any:
        given.update(kwargs)
        return real(*args, **{name: value for name, value in kwargs.items() if name not in ("backend", "timeout")})

    monkeypatch.setattr(training_args, "PartialState", state)
    names = {f"trackio_{what}": "ours/one" for what in ("space_id", "bucket_id", "static_space_id")}
    monkeypatch.setenv("WORLD_SIZE", "1")
    made = IterativeSPOConfig(
        output_dir=str(tmp_path), use_cpu=True, report_to=[], tf32=True, ddp_backend="gloo", project="ours", **names
    )
    assert switched == [True]
    assert (made.project, *(getattr(made, name) for name in names)) == ("ours", *names.values())
    assert made.ddp_backend == "gloo"


def test_a_router_loss_of_a_model_without_router_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="router_aux_loss_coef"):
        make_trainer(tmp_path, router_aux_loss_coef=0.5)


def test_replies_that_are_all_cut_train_nothing_and_stop_nothing(tmp_path: Path) -> None:
    """Random weights never end a reply, so all are truncated: there is no token to divide by."""
    step = one_step(make_trainer(tmp_path, mask_truncated_completions=True, beta=0.0, pad_to_multiple_of=8))
    assert step.log["loss"] == 0
    assert step.log["update/shared"] == 0
    assert all(gradient.abs().sum() == 0 for gradient in step.gradient.values())
