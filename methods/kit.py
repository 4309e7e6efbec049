"""All that the author of a method imports: grids, blocks, patterns, selection by q and k, settings, and ``main``.

``main(METHOD)`` at the end of a method's file lets ``python FILE.py`` draw which pairs it keeps.
"""

from attnbench.kernels import row_ops, selection_ops
from attnbench.kernels.band import Band
from attnbench.kernels.below import below_flops, count_below
from attnbench.kernels.cell_scores import score_cells, score_means
from attnbench.kernels.cuts import Cut, route, score_block_pairs
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.grid import Grid, Layout, coordinates
from attnbench.kernels.kmeans import cluster, cluster_flops
from attnbench.kernels.named_once import named_once
from attnbench.kernels.partition import Partition, partition_cuboids, partition_in_order, partition_ranges, whole
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.percentile import cut_percentile
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import MeanSelection, Plan, bounding_boxes
from attnbench.kernels.probes import band_flops, band_shares, in_mask_rows, masked_flops, masked_outputs
from attnbench.kernels.remember import remembered
from attnbench.kernels.rule import Rule, band, causal, window
from attnbench.kernels.self_similarity import pool_similarity, similarity_flops
from attnbench.kernels.strided import strided_flops, strided_mass
from attnbench.kernels.summaries import add_summaries
from attnbench.kernels.told import kind_of, quoted, quoted_path
from attnbench.kernels.unlike import split_flops, split_unlike
from attnbench.methods.base import (
    BranchCall,
    Call,
    Cycle,
    Finished,
    Method,
    Source,
    Training,
    shrink_axis,
    shrink_grid,
)
from attnbench.methods.checks import as_choice, as_density, as_flag, as_ints, as_number, as_numbers, fit
from attnbench.methods.density import DensitySetting, nearest, share_of
from attnbench.methods.mask_command import main
from attnbench.methods.per_head import as_state, check_per_head
from attnbench.methods.recipe import Recipe
from attnbench.methods.text import keep_text, ordinary_text, route_text

__all__ = [
    "BadInput", "Band", "BlockPattern", "BranchCall", "Call", "Cut", "Cycle", "DensitySetting", "Finished", "Grid",
    "Layout", "MeanSelection", "Method", "Partition", "Plan", "Recipe", "RoutedPattern", "Rule", "Source",
    "Training", "Unsupported", "add_summaries", "as_choice", "as_density", "as_flag", "as_ints", "as_number",
    "as_numbers", "as_state", "band", "band_flops", "band_shares", "below_flops", "bounding_boxes", "causal",
    "check_per_head", "cluster", "cluster_flops", "coordinates", "count_below", "cut_percentile", "fit",
    "in_mask_rows", "keep_text", "kind_of", "main", "masked_flops", "masked_outputs", "named_once", "nearest",
    "ordinary_text", "partition_cuboids", "partition_in_order", "partition_ranges", "phase", "pool_similarity",
    "quoted", "quoted_path", "remembered", "route", "route_text", "row_ops", "score_block_pairs", "score_cells",
    "score_means", "selection_ops", "share_of", "shrink_axis", "shrink_grid", "similarity_flops", "split_flops",
    "split_unlike", "strided_flops", "strided_mass", "whole", "window",
]  # fmt: skip
