"""What runs inside the pods: an agent that supervises, and the three stages.

Start at `__main__`; `agent` supervises the processes of one pod; `prepare`, `train` and
`evaluate` are the stages, one file each, read from top to bottom. What they consist of is in
folders: `preparation`, `tokenizer`, `dataset` and `data_report`; `training`, `model`, `objective`
and `checkpoint`; `evaluation`. All of them reach the store by `store`.
"""
