"""The techniques of chapter 2: one row each, as `companion.techniques` reads them."""

from __future__ import annotations

from companion.rows import Page

PAGES = (
    Page(
        "losses",
        ("linear-neuron", "training_loop:layer_forward", "function", "ABE"),
        ("mse-loss", "losses:mse_loss", "loss", "BE"),
        ("sigmoid", "losses:sigmoid", "function", "B"),
        ("binary-cross-entropy", "losses:binary_cross_entropy_with_logits", "loss", "E"),
        ("softmax", "losses:softmax", "function", "BD"),
        ("softmax-cross-entropy", "losses:cross_entropy", "loss", "CDE"),
        ("log-softmax", "losses:log_softmax", "function", ""),
        ("l2-regularized-loss", "losses:regularized_loss", "loss", "D"),
        ("five-step-training-loop", "training_loop:train_layer", "function", "ACE"),
    ),
    Page(
        "layers",
        ("linear-layer", "layers:Linear", "layer", "ABE"),
        ("relu", "layers:ReLU", "layer", "CD"),
        ("tanh", "layers:Tanh", "layer", ""),
        ("gelu", "layers:GELU", "layer", ""),
        ("dropout", "layers:Dropout", "layer", ""),
        ("embedding", "layers:Embedding", "layer", "C"),
        ("layer-norm", "normalization:LayerNorm", "layer", ""),
        ("batch-norm", "normalization:BatchNorm1d", "layer", ""),
        ("manual-backprop", "manual:ManualBackprop", "lightning-module", "ABE"),
        recipes="layer_recipes",
    ),
    Page(
        "autograd",
        ("tape-network", "tape_network:TapeClassifier", "lightning-module", ""),
        ("tape-function", "tape_network:as_torch", "function", ""),
        ("gradient-check", "gradient_check:gradient_check", "function", ""),
        ("forward-mode", "forward_mode:jvp", "function", ""),
        ("hessian-vector-product", "higher_order:hessian_vector_product", "function", ""),
        recipes="tape_recipes",
    ),
    Page(
        "linear_regression",
        ("linear-regression", "linear_regression:least_squares", "function", "E"),
        ("gradient-descent-regression", "linear_regression:gradient_descent", "function", "E"),
        ("ridge-regression", "linear_regression:ridge", "function", "D"),
        ("feature-standardization", "features:Standardizer", "module", "E"),
        recipes="regression_recipes",
    ),
    Page(
        "linear_regression",
        ("normal-equation", "linear_regression:normal_equation", "function", ""),
        ("one-pass-least-squares", "least_squares:LeastSquares", "lightning-module", ""),
        ("polynomial-regression", "features:polynomial_features", "function", "E"),
        recipes="regression_recipes",
        devices={
            "tpu-compiled": "torch_xla 2.9 cannot compile torch.linalg.qr: it calls the host's CPU"
        },
    ),
    Page(
        "keras",
        ("keras-twin", "keras_twin:mlp_twin", "function", "DE"),
        recipes="regression_recipes",
        devices=dict.fromkeys(
            ("cuda", "xla-cpu", "tpu-compiled", "tpu"),
            "it compares two frameworks, so both train on one processor, the CPU",
        ),
    ),
)
