"""The techniques of chapter 3: one row each, as `companion.techniques` reads them."""

from __future__ import annotations

from companion.rows import Page

PAGES: tuple[Page, ...] = (
    Page(
        "cnn",
        ("convolution", "convolution:Conv2d", "layer", "AC"),
        ("im2col-convolution", "im2col:im2col", "function", ""),
        ("field-of-view", "receptive_field:receptive_field", "function", ""),
        ("max-pooling", "pooling:MaxPool2d", "layer", "CD"),
        ("average-pooling", "pooling:AvgPool2d", "layer", "CD"),
        ("batch-norm-2d", "batch_norm:BatchNorm2d", "layer", ""),
        ("lenet-300-100", "cnn:LeNet300100", "module", ""),
        ("lenet-5", "cnn:LeNet5", "module", "C"),
        ("small-cnn", "cnn:SmallCNN", "module", "CD"),
        ("residual-network", "cnn:ResNet", "module", ""),
        recipes="cnn_recipes",
    ),
    Page(
        "rnn",
        ("elman-rnn", "rnn:RNN", "layer", "AC"),
        ("lstm", "rnn:LSTM", "layer", ""),
        ("gru", "rnn:GRU", "layer", ""),
        ("chrono-initialization", "chrono:chrono_init_", "verb", ""),
        ("gradient-clipping-by-norm", "clipping:clip_grad_norm_", "verb", ""),
        ("truncated-bptt", "truncated:TruncatedBPTT", "lightning-module", ""),
        ("sequence-classification", "rnn:SequenceClassifier", "module", "C"),
        ("character-rnn", "rnn:CharacterRNN", "module", ""),
        recipes="rnn_recipes",
    ),
    Page(
        "transformer",
        ("scaled-dot-product-attention", "attention:scaled_dot_product", "function", "AE"),
        ("causal-mask", "masks:causal_mask", "function", ""),
        ("multi-head-attention", "attention:MultiHeadAttention", "module", "AE"),
        ("grouped-query-attention", "attention:MultiHeadAttention", "module", ""),
        ("key-value-cache", "cache:KeyValueCache", "module", ""),
        ("sinusoidal-positions", "positions:sinusoidal_table", "function", ""),
        ("rotary-positions", "positions:RotaryPositions", "module", ""),
        ("rms-norm", "normalization:RMSNorm", "module", ""),
        ("swiglu", "feed_forward:SwiGLU", "module", ""),
        ("pre-norm-block", "transformer:Block", "module", ""),
        ("gpt", "transformer:GPT", "module", "AE"),
        recipes="transformer_recipes",
    ),
    Page(
        "transformer_variants",
        ("bert-encoder", "encoder:Encoder", "module", "AE"),
        ("masked-language-model", "encoder:MaskedLanguageModel", "lightning-module", ""),
        ("sequence-classification-encoder", "encoder:EncoderClassifier", "module", ""),
        ("mixture-of-experts", "mixture_of_experts:MixtureOfExperts", "layer", ""),
        ("load-balancing-loss", "mixture_of_experts:load_balancing_loss", "loss", ""),
        recipes="variant_recipes",
    ),
    Page(
        "language_models",
        ("n-gram-model", "ngram:NGram", "module", ""),
        ("byte-pair-encoding", "tokenizer:BytePairTokenizer", "module", ""),
        ("character-gpt", "transformer:GPT", "module", "AE"),
        ("kv-cache-generation", "generation:generate", "function", ""),
        ("temperature-sampling", "generation:scale_by_temperature", "function", ""),
        ("top-k-sampling", "generation:keep_top_k", "function", ""),
        ("top-p-sampling", "generation:keep_top_p", "function", ""),
        recipes="language_model_recipes",
    ),
    Page(
        "keras",
        ("keras-network-twins", "keras_twin:small_cnn_twin", "function", "CD"),
        recipes="keras_recipes",
        devices=dict.fromkeys(
            ("cuda", "xla-cpu", "tpu-compiled", "tpu"),
            "it compares two frameworks, so both train on one processor, the CPU",
        ),
    ),
)
