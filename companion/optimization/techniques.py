"""The techniques of chapter 4: one row each, as `companion.techniques` reads them."""

from __future__ import annotations

from companion.rows import Page

PAGES: tuple[Page, ...] = (
    Page(
        "sgd",
        ("gradient-descent", "sgd:descend", "function", "BE"),
        ("stochastic-gradient-descent", "sgd:SGD", "optimizer", "BCE"),
        ("mini-batch-sgd", "sgd:SGD", "optimizer", "E"),
        ("momentum", "sgd:SGD", "optimizer", ""),
        ("nesterov-momentum", "sgd:SGD", "optimizer", ""),
        ("sampling-without-replacement", "sampling:batches", "function", "E"),
        ("sampling-with-replacement", "sampling:batches", "function", "E"),
        ("gradient-accumulation", "accumulation:accumulate_gradients", "function", ""),
        ("gradient-noise-scale", "noise:GradientNoiseScale", "callback", ""),
        recipes="sgd_recipes",
    ),
    Page(
        "adam",
        ("adagrad", "adaptive:Adagrad", "optimizer", ""),
        ("rmsprop", "adaptive:RMSprop", "optimizer", ""),
        ("adam", "adam:Adam", "optimizer", "DE"),
        ("adamw", "adam:AdamW", "optimizer", ""),
        ("amsgrad", "adam:Adam", "optimizer", ""),
        ("lion", "lion:Lion", "optimizer", ""),
        ("muon", "muon:Muon", "optimizer", ""),
        recipes="adam_recipes",
    ),
    Page(
        "schedules",
        ("step-decay", "schedules:step_decay", "function", "B"),
        ("exponential-decay", "schedules:exponential", "function", "B"),
        ("cosine-schedule", "schedules:cosine", "function", "B"),
        ("cosine-restarts", "schedules:cosine_restarts", "function", "B"),
        ("linear-warmup", "schedules:linear_warmup", "function", "B"),
        ("one-cycle", "one_cycle:one_cycle", "function", "B"),
        ("inverse-square-root", "schedules:inverse_square_root", "function", "B"),
        ("warmup-stable-decay", "schedules:warmup_stable_decay", "function", "B"),
        ("reduce-on-plateau", "schedules:plateau", "function", "B"),
        ("learning-rate-range-test", "range_test:LearningRateRangeTest", "callback", ""),
        recipes="schedule_recipes",
    ),
    Page(
        "regularization",
        ("weight-decay", "regularization:decay_groups", "function", "DE"),
        ("dropout-regularization", "regularization:Dropout", "layer", ""),
        ("label-smoothing", "regularization:smoothed_cross_entropy", "loss", ""),
        ("clipping-by-value", "regularization:clip_grad_value_", "verb", ""),
        ("early-stopping", "stopping:EarlyStopping", "callback", ""),
        ("exponential-moving-average", "averaging:ExponentialMovingAverage", "callback", ""),
        ("stochastic-weight-averaging", "averaging:StochasticWeightAverage", "callback", ""),
        ("double-descent", "double_descent:double_descent", "function", "A"),
        recipes="regularization_recipes",
    ),
    Page(
        "keras",
        ("keras-optimizer-twins", "keras_twin:optimizer_twin", "function", ""),
        recipes="keras_recipes",
        devices=dict.fromkeys(
            ("cuda", "xla-cpu", "tpu-compiled", "tpu"),
            "it compares two frameworks, so both train on one processor, the CPU",
        ),
    ),
    Page(
        "tuning",
        ("random-search", "tuning:random_search", "function", "BE"),
        ("successive-halving", "tuning:successive_halving", "function", ""),
        ("paired-seed-comparison", "comparing:paired_comparison", "function", ""),
        ("bootstrap-interval", "comparing:bootstrap_interval", "function", ""),
        recipes="tuning_recipes",
    ),
)
