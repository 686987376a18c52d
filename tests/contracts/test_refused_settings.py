"""What contradicts, or would do nothing, is refused before a round: with the rule, the value and the way out."""

import numpy as np
import pytest
from short_runs import BRACKETS, COMMUNITIES, NORMED, SHIFTED, chosen_settings, run_in

from fedmb.errors import SettingsError, ShapeError
from fedmb.federation import checkpoint
from fedmb.federation.client_settings import ClientSettings
from fedmb.settings import load
from fedmb.simulation.population import Simulation

BASE = "training.learning_rate.base_size=16"
GHOST = "training.norm=ghost training.norm_group=8"


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ("training.sizing.kind=goodput", "got no max_size; set max_size"),
        (
            "training.sizing.kind=cabs training.sizing.max_size=64 training.momentum=0.9",
            "plain SGD, got sgd .* take",
        ),
        ("training.norm=ghost", "got norm ghost and norm_group None; set both or neither"),
        (GHOST, "got sizing.multiple 1; set sizing.multiple to 8"),
        (f"{GHOST} training.sizing.multiple=8 training.micro_size=4", "of 8 rows, got 4; choose a multiple"),
        (
            "training.norm=layer training.norm_travels=fedbn",
            "got norm layer, which leaves none; set norm_travels",
        ),
        (f"training.learning_rate.scaling=adam_gain {BASE}", "adam_gain .* got sgd; take scaling gain"),
        (f"training.learning_rate.scaling=adam_gain {BASE} training.optimizer=lars", "adam_gain .* got lars; take"),
        ("training.learning_rate.decay=cosine", "needs decay_samples, got nothing; set"),
        ("training.optimizer=adam training.momentum=0.9", "adam has no momentum of this kind, got 0.9; set it to 0"),
        ("training.optimizer=sdg", "training.optimizer must be 'sgd'.* got 'sdg'; change it"),
        ("training.optimizer=torch.optim:Nadam", "must be importable, got 'torch.optim:Nadam'"),
        ("training.optimizer=torch.optim:LBFGS", "got torch.optim:LBFGS; name a first-order one"),
        ("training.optimizer_options={eta=0.1}", "options of sgd must be .* got 'eta'; rename or remove it"),
        (
            "training.optimizer=adam training.optimizer_options={betas=[0.9,2]}",
            "adam must take its options, got .*",
        ),
        ("training.micro_size=0", "training.micro_size must be greater than or equal to 1, got 0"),
        ("training.micro_size=-3", "must be greater than or equal to 1, got -3"),
        (
            f"training.learning_rate.follow=['momentum'] {BASE}",
            "got sgd without betas and with momentum 0; set",
        ),
        (
            f"training.learning_rate.follow=['momentum'] {BASE} training.optimizer=adagrad",
            "got adagrad without betas and with momentum 0",
        ),
        (f"training.learning_rate.follow=['weight_decay'] {BASE}", "got weight_decay 0; set training.weight_decay"),
        (f"training.learning_rate.follow=['average'] {BASE}", "got no average of weights; set training.average"),
        ("training.weight_decay=0.1 training.weight_decay_samples=9", "got weight_decay 0.1 and .* 9; remove one"),
        ("training.dropout=normed_digits", "must be written module:name, got 'normed_digits'; for"),
        ("training.dropout=normed_digits:doubled", "must be importable, got 'normed_digits:doubled'"),
        ("training.guard.rollback_every=7", "got 7 and no spike_factor; set spike_factor, or remove"),
        ("training.noise_every=4 training.sizing.size=1", "from two groups .* got batches of 1 and groups of 1; take"),
        (
            f"training.noise_every=4 {GHOST} training.sizing.size=8 training.sizing.multiple=8",
            "got batches of 8 and groups of 8; take larger batches",
        ),
        ("rounds.stopping.metric=loss", "got loss and neither target nor patience; set one of them, or remove metric"),
        ("rounds.stopping.higher_is_better=false", "got False and neither target nor patience"),
        ("rounds.stopping.min_change=0.1", "got 0.1 and neither target nor patience"),
        ("rows.curriculum_start=0.5", "got 0.5 and no curriculum_samples; set curriculum_samples, or remove"),
        ("rows.temperature=4", "got 4 for 1 table; name more tables, or leave the temperature out"),
        ("rows.temperature=4 private.tables=2 private.clients=0", "got 4 for 0 table"),
        ("rows.buckets={}", "rows.buckets needs its rows in a table, got a stream"),
        ("rows.graph={}", "rows.graph needs its rows in a table, got a stream"),
        ("rows.buckets={} rows.graph={} streamed.clients=0", "got buckets and graph; keep one"),
        ("rows.buckets={} rows.tail=keep streamed.clients=0", "leave tail at balance"),
        (f"private.dataset={SHIFTED} rows.curriculum_samples=9", "curriculum_samples needs .* got a dataset"),
        (f"private.dataset={SHIFTED} private.tables=2", "one part a client"),
        (f"private.dataset={SHIFTED} private.clients=0", "one part a client"),
        ("rows.buckets.pol=3", "did you mean rows.buckets.pool"),
        ("rows.graph.fan_outs=[0]", "rows.graph.fan_outs"),
    ],
)
def test_what_contradicts_or_does_nothing_is_refused_when_settings_are_read(chosen, sentence):
    with pytest.raises(SettingsError, match=sentence) as refused:
        load(Simulation, overrides=chosen.split())
    assert "; " in str(refused.value)


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ("rows.buckets={} streamed.clients=0", "this table has none of image, label"),
        (f"{BRACKETS} rows.buckets.by=letters", "letters and letters_mask, this table has symbols"),
        (f"{BRACKETS} rows.buckets.max_tokens=39", "cover the longest row, 40 tokens, got 39"),
        (f"{BRACKETS} rows.buckets={{}} private.tables=2", "one table by length, got 2"),
        (f"{BRACKETS} rows.graph={{}}", "need a table of nodes"),
        (f"{COMMUNITIES} rows.graph.fan_outs=[5,5,5]", "beyond the 2 hops"),
        (f"{COMMUNITIES} rows.curriculum_samples=9", "without difficulty"),
        ("private.dataset=dataset:fedmb.tasks.digits:ShiftedDigits?pixels=9", "0 to 7 pixels, got 9"),
        (f"{BRACKETS} private.dataset={SHIFTED}", "padded length 40, got one of 64"),
        (f"{COMMUNITIES} private.dataset={SHIFTED}", "need a name for each place"),
        ("training.norm=layer", "norm layer is about batch norm, got a model without one; set norm to as_built"),
        ("training.norm=frozen", "norm frozen is about batch norm"),
        ("training.norm=group training.norm_group=4", "norm group is about batch norm"),
        (f"{GHOST} training.sizing.multiple=8", "norm ghost is about batch norm"),
        ("training.norm_travels=fedbn", "norm_travels fedbn is about batch norm"),
        (
            "training.norm_travels=silobn",
            "norm_travels silobn .* got a model without one; set norm_tr",
        ),
        (f"training.learning_rate.follow=['norm_momentum'] {BASE}", "got a model without one that learns"),
        (
            f"{NORMED} training.norm=frozen training.learning_rate.follow=['norm_momentum'] {BASE}",
            "got a model without one that learns",
        ),
        (
            f"{NORMED} training.micro_size=8",
            "'1', which would see parts of it, and training.micro_size 8; set",
        ),
        (f"{NORMED} training.micro_size=auto", "training.micro_size auto; set training.norm to ghost, group, layer or"),
        (f"{NORMED} training.noise_every=4", "training.noise_every 4, which measures noise on parts of a batch"),
        (f"{NORMED} training.sizing.kind=cabs training.sizing.max_size=64", "sizing.kind cabs, which measures noise"),
        ("training.dropout=normed_digits:halved", "needs a dropout layer, got a model without"),
        ("rounds.stopping.patience=1 rounds.stopping.metric=acuracy", "got 'acuracy'; set stopping.metric"),
    ],
)
def test_what_the_task_cannot_bear_is_refused_before_the_first_round(tmp_path, chosen, sentence):
    with pytest.raises((SettingsError, ShapeError), match=sentence):
        run_in(tmp_path / "run", chosen_settings(chosen))
    assert not checkpoint.generations(tmp_path / "run" / "checkpoints")


def test_a_full_batch_of_ghost_groups_is_learnt(tmp_path):
    scores = run_in(tmp_path / "run", chosen_settings(f"{NORMED} {GHOST} training.sizing.kind=full"))

    assert np.isfinite(scores[-1]["loss"])


def test_a_temperature_needs_several_tables_of_a_deployed_client_too():
    mixed = ClientSettings(name="a", source="table:a.npz table:b.npz", rows={"temperature": 4.0})

    assert mixed.rows.temperature == 4
    for source, tables in (("table:a.npz", 1), ("file:///log?topic=rows", 0)):
        with pytest.raises(ValueError, match=f"got 4 for {tables} table"):
            ClientSettings(name="a", source=source, rows={"temperature": 4.0})
