"""What a job will take, from its manifest alone: no torch, no network, no clock.

Read `outlook` first; `size` counts parameters, `trained` those that move, `memory` bytes, with
`activations` for what a forward pass keeps. The contract's `devices` knows GPUs.
"""
