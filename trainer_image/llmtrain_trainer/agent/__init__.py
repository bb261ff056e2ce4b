"""The first process of each pod: it supervises the pod's ranks and says how the pod ended.

Below: the stages, each run by ranks that are forked here. Above: `__main__`. Read `supervision`
first; a round is one common start of all ranks, of whatever number of pods. Nothing here imports
torch but the ranks themselves, so that the agent answers at once and is small.
"""
