"""What the fields of configs are, of transformer.train and transformer.finetune. Values are in configs/."""

from collections.abc import Mapping

from training.fields import OF_RUNS

_OF_BOTH: Mapping[str, str] = {
    **OF_RUNS,
    "batch_size": "examples of a replica (a device) at once",
    "epochs": "times that all training examples are seen",
    "num_steps": "training steps in all; 0: as many as the epochs have",
    "attention": "to train with: a name of attentions",
    "optimizer.learning_rate": "the highest, after the warmup",
    "optimizer.warmup": "part of the steps in which the learning rate rises to it",
    "optimizer.weight_decay": "of kernels and embeddings",
    "optimizer.clip": "largest norm of a gradient",
    "evaluate.every": "steps from one validation to the next; 0: at the end alone",
    "evaluate.batch_size": "examples at once in validation and test",
}

# Of transformer.train.
FIELDS: Mapping[str, str] = {
    **_OF_BOTH,
    "pairs": "part of dense attention's pairs that attentions may have; 0: they have sizes of their own",
    "attentions": "a name -> name and fields of a method of attention",
    "optimizer.schedule": "of the learning rate after the warmup: linear, cosine or invsqrt",
    "optimizer.b2": "decay of the gradients' squares",
    "model.hidden_size": "width between the layers",
    "model.num_layers": "layers",
    "model.num_heads": "heads of attention",
    "model.attention_size": "width of queries, keys and values, all heads together; 0: hidden_size",
    "model.intermediate_size": "width inside the feed-forward part",
    "model.dropout": "part of activations that is dropped in training",
    "model.positions": "learned or sinusoidal",
    "model.pooling": "of an encoder: cls, a vector of its own in front of the tokens, or mean of the tokens",
    "data.task": "copy, language, listops, text, pathfinder, image or retrieval",
    "data.source": "of language: wikitext, articles or reviews",
    "data.path": "of the data: a folder; of text a CSV file with text and label ('': the package's reviews)",
    "data.folder": "where data that were generated or tokenized are kept; '': nowhere",
    "data.vocabulary": "of language: words, bytes or such as bpe4096",
    "data.length": "tokens of an example at most; of text and retrieval, bytes",
    "data.train_size": "examples to train on; of copy those of an epoch; of text 0: all",
    "data.validation_size": "examples to look at during training; of text 0: all",
    "data.test_size": "examples to test on; of text 0: all",
    "data.num_symbols": "of copy: symbols that are copied",
    "data.min_length": "of listops: an expression has more tokens than these",
    "data.max_length": "of listops: an expression has fewer tokens than these",
    "data.max_depth": "of listops: levels of an expression at most",
    "data.max_args": "of listops: arguments of an operator at most",
    "data.window": "of pathfinder: pixels a side",
    "data.contour": "of pathfinder: dashes of the two long lines",
    "data.distractors": "of pathfinder: other lines, of a third as many dashes",
    "evaluate.validation_size": "validation examples at most; 0: there is no validation",
}

# Of transformer.finetune.
FINETUNE_FIELDS: Mapping[str, str] = {
    **_OF_BOTH,
    "init": "minilm, or a folder with config.json, model.safetensors and tokenizer.json",
    "attentions": "a name -> name and fields of a method of attention; the weights are tested with each",
    "data.source": "imdb, rotten_tomatoes or glue",
    "data.path": "GLUE's folder; else a CSV file with text and label ('': the package's texts)",
    "data.task": "of GLUE: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE or WNLI",
    "data.length": "tokens of a text at most",
    "data.train_size": "texts to train on at most; 0: all",
    "data.validation_size": "texts to look at during training at most; 0: none",
    "data.test_size": "texts to test on at most; 0: all",
}
