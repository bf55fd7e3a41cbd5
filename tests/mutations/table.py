"""Guard -> how to remove it -> the test that must notice."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One guard: the text ``old`` in ``file`` becomes ``new``, and ``test`` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


FLOPS = "tests/accounts/flops"
PLUGINS = "plugins/spendflops_plugins"

MUTATIONS = (
    Mutation(
        "scan bodies count once",
        "spendflops/accounts/flops/jaxpr.py",
        'eqn.params["length"])',
        "1)",
        f"{FLOPS}/test_flops_jaxpr.py::test_t2_scan",
    ),
    Mutation(
        "dead code is counted",
        "spendflops/accounts/flops/jaxpr.py",
        "program, _ = partial_eval.dce_jaxpr(program, True)",
        "",
        f"{FLOPS}/test_flops_jaxpr.py::test_dead_products_vanish",
    ),
    Mutation(
        "biased variance in MAE's targets",
        f"{PLUGINS}/mae.py",
        "ddof=1",
        "ddof=0",
        "tests/plugins/test_mae.py::test_t7_unbiased_variance",
    ),
    Mutation(
        "stop-gradient on the negatives",
        f"{PLUGINS}/simclr.py",
        '"ie,je->ij", z, z,',
        '"ie,je->ij", z, jax.lax.stop_gradient(z),',
        "tests/plugins/test_simclr.py::test_t6_gradient_flows_through_the_negatives",
    ),
    Mutation(
        "padding counts in the mIoU",
        f"{PLUGINS}/segmentation_miou.py",
        'labels = jnp.where(batch["_mask"].reshape(-1, *[1] * (masks.ndim - 1)), masks, IGNORE)',
        "labels = masks",
        "tests/plugins/test_segmentation_miou.py",
    ),
    Mutation(
        "budgets through floats",
        "spendflops/accounts/budget.py",
        "return int(self.amount // flops_per_step)",
        "return int(float(self.amount) / float(flops_per_step))",
        "tests/accounts/test_budget.py::test_a_budget_never_pays_for_a_part_of_a_step",
    ),
    Mutation(
        "a half-written ledger line stays",
        "spendflops/accounts/ledger.py",
        "file.truncate(len(whole))",
        "pass",
        "tests/accounts/test_ledger.py::test_a_half_written_line_is_dropped_and_the_next_row_is_whole",
    ),
    Mutation(
        "late groups start at once",
        "spendflops/engine/optim.py",
        "if (group.start, group.start_fraction) != (None, None):",
        "if False:",
        "tests/engine/test_optim.py::test_a_group_that_has_not_started_does_not_decay",
    ),
    Mutation(
        "new parameters are not projected",
        "spendflops/engine/step.py",
        "module.project()",
        "pass",
        "tests/engine/test_state.py::test_new_parameters_are_projected_after_every_update",
    ),
    Mutation(
        "an overlay of no cell is accepted",
        "spendflops/study/grid.py",
        "if overlay not in known:",
        "if False:",
        "tests/study/test_grid.py::test_an_overlay_that_matches_no_cell_is_an_error",
    ),
    Mutation(
        "DINO's loss takes the new centre",
        f"{PLUGINS}/dino/__init__.py",
        "log_p = jax.nn.log_softmax((targets - self.center[...]) / temperature)",
        "log_p = jax.nn.log_softmax((targets - jnp.mean(targets, axis=(0, 1))) / temperature)",
        "tests/plugins/test_dino.py::test_t12_the_loss_takes_the_old_centre_and_leaves_the_new_one",
    ),
    Mutation(
        "the scale of CLIP has no bound",
        f"{PLUGINS}/clip/__init__.py",
        "self.logit_scale.set_value(jnp.clip(self.logit_scale[...], low, high))",
        "pass",
        "tests/plugins/test_clip.py",
    ),
    Mutation(
        "a pickle may call what it names",
        "spendflops/weights/pickles.py",
        'raise Refused(f"its pickle names {full}")',
        "pass",
        "tests/weights/test_pth.py::test_a_hostile_pickle_is_refused_and_nothing_of_it_runs",
    ),
    Mutation(
        "a host reads the rows of another",
        "spendflops/engine/data.py",
        "(step * self._hosts + self._host) * self._rows",
        "(step * self._hosts) * self._rows",
        "tests/engine/test_readers.py::test_hosts_read_their_rows_of_the_same_batches_and_no_others",
    ),
    Mutation(
        "any number of broken examples",
        "spendflops/engine/data.py",
        "if len(self.found) > self.limit:",
        "if False:",
        "tests/engine/test_readers.py::test_more_broken_examples_than_allowed",
    ),
    Mutation(
        "broken examples count in a score",
        "spendflops/engine/data.py",
        "np.pad(broken < 0,",
        "np.pad(broken < 10**9,",
        "tests/engine/test_readers.py::test_a_broken_evaluation_example_does_not_count",
    ),
    Mutation(
        "OpenCV decodes CMYK",
        "spendflops/parts/images.py",
        '"JPEG": ("RGB", "L"),',
        '"JPEG": ("RGB", "L", "CMYK"),',
        "tests/data/test_campaign.py::test_each_sample_is_clean_or_an_error_that_names_it",
    ),
    Mutation(
        "a tar that changes while it is read",
        "spendflops/parts/sources/tar.py",
        "if (status.st_size, status.st_mtime_ns) != stamp:",
        "if False:",
        "tests/parts/sources/test_tar.py::test_a_tar_that_changes_while_it_is_read",
    ),
    Mutation(
        "copies that are not complete",
        "spendflops/parts/sources/published.py",
        "if not self.partial and self.held(source) != published.sizes[split]:",
        "if False:",
        "tests/data/test_verify.py::test_published_sets_check_what_they_are_given",
    ),
    Mutation(
        "labels that are no class",
        f"{PLUGINS}/supervised.py",
        "if classes and labels.size and not -1 <= labels.min() <= labels.max() < len(classes):",
        "if False:",
        "tests/plugins/test_supervised.py::test_views_refuse_labels_that_are_no_class",
    ),
    Mutation(
        "a locked tower is trained",
        f"{PLUGINS}/clip/__init__.py",
        "if locked:",
        "if False:",
        "tests/plugins/test_lit.py::test_the_locked_tower_is_billed_one_forward_and_nothing_else",
    ),
    Mutation(
        "rows that only chose settings stand on the axis",
        "spendflops/study/frontier/curves.py",
        'found = (row for row in rows if row.ok and row.kind != "tuning")',
        "found = (row for row in rows if row.ok)",
        "tests/study/test_transfers.py::test_what_only_chose_settings_is_on_no_axis_but_in_the_report",
    ),
    Mutation(
        "gains are not paired",
        "spendflops/study/frontier/paired.py",
        "sorted(set(one) & set(other))",
        "sorted(set(one))[:1] * len(one)",
        "tests/study/test_label_curves.py::test_curves_and_paired_gains",
    ),
    Mutation(
        "a hopeless run goes on",
        "spendflops/engine/probes.py",
        "if (low is not None and value < low) or (high is not None and value > high):",
        "if False:",
        "tests/engine/test_probes.py::test_a_hopeless_run_stops",
    ),
    Mutation(
        "probes are the stage's time and FLOPs",
        "spendflops/engine/build.py",
        "return train + self._probing() +",
        "return train +",
        "tests/engine/test_probes.py::test_a_plan_holds_them",
    ),
    Mutation(
        "crowds are objects to learn",
        f"{PLUGINS}/detection/views.py",
        "(areas >= self.min_area) & ~crowd)",
        "(areas >= self.min_area))",
        "tests/plugins/detection/test_detection_views.py::test_crowds_are_no_objects",
    ),
    Mutation(
        "objects beyond the padding vanish without a word",
        f"{PLUGINS}/detection/views.py",
        "dropped = (len(left) - len(kept),",
        "dropped = (0,",
        "tests/plugins/detection/test_detection_views.py::test_more_objects_than_the_padding",
    ),
    Mutation(
        "boxes are not moved with the crop",
        f"{PLUGINS}/detection/views.py",
        "(boxes - np.tile(begin, 2)) *",
        "boxes *",
        "tests/plugins/detection/test_detection_views.py::test_boxes_are_those_of_what_the_crop_leaves_of_the_masks",
    ),
    Mutation(
        "images come as often as their commonest class",
        f"{PLUGINS}/detection/lvis.py",
        "np.maximum.at(factors,",
        "np.minimum.at(factors,",
        "tests/plugins/detection/test_lvis.py::test_repeat_factors",
    ),
    Mutation(
        "fixed positions made for the new size",
        f"{PLUGINS}/vit.py",
        "made_for = self.image_size if position_size is None else (position_size, position_size)",
        "made_for = self.image_size",
        "tests/plugins/test_vit.py::test_a_fixed_table_is_that_of_pretraining_resampled",
    ),
    Mutation(
        "an evaluation writes where it likes",
        "spendflops/engine/evaluate.py",
        "if not plain(name):",
        "if False:",
        "tests/engine/test_rows_on_the_host.py::test_a_file_that_would_lie_elsewhere_is_refused",
    ),
    Mutation(
        "places of examples start again in every batch",
        "spendflops/engine/data.py",
        "index = np.arange(number * batch_size, (number + 1) * batch_size)",
        "index = np.arange(batch_size)",
        "tests/engine/test_rows_on_the_host.py::test_what_is_kept_comes_back_in_step_with_the_predictions",
    ),
    Mutation(
        "a report inlines any picture of the disk",
        "spendflops/study/report/examples.py",
        "if inside and",
        "if",
        "tests/study/test_report_examples.py::test_pictures_that_are_gone_or_elsewhere_are_named_and_not_read",
    ),
    Mutation(
        "annotations count from 0",
        f"{PLUGINS}/detection/average_precision.py",
        '"id": len(objects) + 1,',
        '"id": len(objects),',
        "tests/plugins/detection/test_coco_ap.py::test_t3",
    ),
    Mutation(
        "boxes stay on the canvas",
        f"{PLUGINS}/detection/evaluation.py",
        "placed *= np.tile([width / fitted[1], height / fitted[0]], 2)",
        "",
        "tests/plugins/detection/test_coco_ap.py::test_boxes_come_back_in_stored_pixels_clipped_to_the_image",
    ),
    Mutation(
        "equal scores count in the order in which images came",
        f"{PLUGINS}/detection/evaluation.py",
        "return sorted(images, key=lambda image: (_id(*image[:2]), image[0]))",
        "return list(images)",
        "tests/plugins/detection/test_coco_ap.py::test_equal_scores_count_in_the_order_of_the_image_ids",
    ),
    Mutation(
        "boxes without area have gradients that are not numbers",
        f"{PLUGINS}/detection/boxes.py",
        "shared / jnp.where(union > 0, union, 1)",
        "shared / union",
        "tests/plugins/detection/test_detection_boxes.py::test_boxes_without_area_overlap_nothing_and_have_gradients",
    ),
    Mutation(
        "an object without overlap makes every anchor positive",
        f"{PLUGINS}/detection/matching.py",
        " & (top > 0)",
        "",
        "tests/plugins/detection/test_detection_matching.py::"
        "test_all_boxes_that_tie_are_favourites_and_none_without_overlap",
    ),
    Mutation(
        "padding suppresses boxes",
        f"{PLUGINS}/detection/nms.py",
        "now = valid & ~",
        "now = ~",
        "tests/plugins/detection/test_detection_nms.py::test_t5_padding",
    ),
    Mutation(
        "a budget pays for recomputation",
        "spendflops/engine/program.py",
        "return count_jaxpr(self._traced.jaxpr).without_recomputation()",
        "return count_jaxpr(self._traced.jaxpr)",
        "tests/engine/test_programs.py::test_saving_memory_changes_no_price",
    ),
    Mutation(
        "what is beyond the map is zero after the projection",
        "spendflops/parts/nn/attention.py",
        "qkv = to_windows(qkv.reshape(batch, *grid, -1), self.window, fill=alone)",
        "qkv = to_windows(qkv.reshape(batch, *grid, -1), self.window)",
        "tests/parts/nn/test_attention.py::test_windows_and_decomposed_positions_equal_the_loop",
    ),
    Mutation(
        "the class token's row becomes a patch's",
        f"{PLUGINS}/vit.py",
        "patches = resize_table(value[0, prefix:], (side, side), self.position_grid, rule=self.position_resize)",
        "patches = resize_table(value[0, : side * side], (side, side), self.position_grid, rule=self.position_resize)",
        "tests/plugins/test_vit_dense.py::test_a_detector_starts_from_a_plain_model_without_its_class_token",
    ),
    Mutation(
        "features of other weights are found",
        "spendflops/engine/feature_cache.py",
        "program.digest.encode(), *weights)",
        "program.digest.encode())",
        "tests/engine/test_feature_cache.py::test_what_is_found_is_what_would_be_computed_bit_for_bit",
    ),
    Mutation(
        "features of other images are found",
        "spendflops/engine/feature_cache.py",
        "(name.encode(), _content(batch[name]))",
        "(name.encode(),)",
        "tests/engine/test_feature_cache.py::test_an_image_that_changes_in_place_is_seen_whatever_its_file_says",
    ),
    Mutation(
        "a head of other classes is taken",
        "spendflops/engine/agreement.py",
        "if known and own != theirs and heads and output in target.example.outputs:",
        "if False:",
        "tests/engine/test_preflight.py::test_runs_that_a_later_stage_starts_from_are_looked_at_first",
    ),
    Mutation(
        "sizes of label maps are not compared",
        "spendflops/engine/preflight.py",
        "return [] if mask == image else",
        "return [] if True else",
        "tests/engine/test_preflight.py::test_a_size_is_found_by_its_header_where_nothing_is_decoded",
    ),
    Mutation(
        "a study looks at its data row by row",
        "spendflops/study/launch.py",
        "preflight.check_data(*recipes, *self._later())",
        "self._later()",
        "tests/cli/test_bad_input.py",
    ),
    Mutation(
        "damaged features are used",
        "spendflops/engine/feature_cache.py",
        "if kept[:_DIGEST] == _hash(kept[_DIGEST:]) else None",
        "",
        "tests/engine/test_feature_cache.py::test_a_damaged_file_is_computed_again_and_repaired",
    ),
)
