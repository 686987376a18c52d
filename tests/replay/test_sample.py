import numpy as np

from fedmb.replay.sample import MixedSample, Sample


def test_a_sample_becomes_a_mini_batch_of_the_same_arrays():
    x, weights = np.arange(3), np.ones(3, np.float32)

    for sample in (Sample({"x": x}, np.arange(3), weights), MixedSample({"x": x}, np.arange(3), weights, {})):
        batch = sample.minibatch()
        assert batch.columns["x"] is x
        assert batch.units is weights
        assert batch.origins == {"replay": 3}
        assert batch.span == {}
        assert len(sample) == len(batch) == 3
