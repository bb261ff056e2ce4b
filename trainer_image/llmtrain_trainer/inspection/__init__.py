"""What people ask of the trainer, which knows stores: `llmtrain checkpoints` and `llmtrain data`.

Below: `store`, and the manifests of `checkpoint` and `dataset`. Above: `__main__`. Nothing here
imports torch, so that it answers at once.
"""
