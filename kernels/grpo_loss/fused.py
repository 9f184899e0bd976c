"""The GRPO loss and its gradient in one Triton pass, O(B·T) in time and memory.

One program owns one sequence, or several short ones, and walks them in blocks: row sums first where a
sequence-level quantity needs them, then values and gradients together. The launch grid counts sequences, in
its first dimension alone, so no length can exceed it; there are no atomics, so a result never varies.

Constants reach the kernel as constexpr: as run-time arguments Triton may take Python floats as fp64.

Shapes: B sequences, T positions.
"""

# mypy: allow-untyped-defs
# Arguments of @triton.jit functions are pointers and values of the kernel language, without Python types.

import triton
import triton.language as tl

from .fused_terms import LARGEST, bounded_log, capped_importance, kl_estimate, kl_times_ratio, policy_term


@triton.jit
def grpo_loss_kernel(
    logprob_ptr,
    old_ptr,
    reference_ptr,
    rollout_ptr,
    entropy_ptr,
    threshold_ptr,
    advantage_ptr,
    mask_ptr,
    weight_ptr,
    grad_ptr,
    sums_ptr,
    B,
    T,
    advantage_row_stride,
    advantage_column_stride,
    SURROGATE: tl.constexpr,
    SEQUENCE_RATIO: tl.constexpr,
    LOWER: tl.constexpr,
    UPPER: tl.constexpr,
    DELTA: tl.constexpr,
    CISPO_MAX: tl.constexpr,
    TAU_POS: tl.constexpr,
    TAU_NEG: tl.constexpr,
    K_POS: tl.constexpr,
    RATE_POS: tl.constexpr,
    K_NEG: tl.constexpr,
    RATE_NEG: tl.constexpr,
    LOG_MIN: tl.constexpr,
    LOG_MAX: tl.constexpr,
    FLOOR: tl.constexpr,
    FAR: tl.constexpr,
    K3_FAR: tl.constexpr,
    BETA: tl.constexpr,
    KL: tl.constexpr,
    KL_RATIO: tl.constexpr,
    IMPORTANCE: tl.constexpr,
    SEQUENCE_IMPORTANCE: tl.constexpr,
    IMPORTANCE_CAP: tl.constexpr,
    LOG_IMPORTANCE_CAP: tl.constexpr,
    IMPORTANCE_MASKS: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """grad [B, T] fp32 = d loss / d logprob; sums [B, COLUMNS] fp32 in the order of `ROW_SUMS`."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = (rows < B)[:, None]
    base = (rows * T)[:, None]
    steps = tl.arange(0, BLOCK)[None, :]
    zeros = tl.zeros([ROWS, BLOCK], tl.float32)
    row_weight = tl.load(weight_ptr + rows, mask=rows < B, other=0)

    VESPO: tl.constexpr = SURROGATE == "vespo"
    # The ratio's gradient crosses tokens, so it takes a sum over the row before any of it can be written.
    RHO_HAS_GRAD: tl.constexpr = SURROGATE == "clip" or SURROGATE == "sapo" or (KL_RATIO and BETA > 0)

    if SEQUENCE_RATIO or VESPO or SEQUENCE_IMPORTANCE:
        lengths = zeros
        log_ratios = zeros
        bounded_log_ratios = zeros
        gaps = zeros
        importance_logs = zeros
        for start in range(0, T, BLOCK):
            at = base + start + steps
            valid = tl.load(mask_ptr + at, mask=in_rows & (start + steps < T), other=0) != 0
            logprob = tl.load(logprob_ptr + at, mask=valid, other=0).to(tl.float32)
            lengths += valid.to(tl.float32)
            old = logprob
            if old_ptr is not None:
                old = tl.load(old_ptr + at, mask=valid, other=0).to(tl.float32)
                delta = logprob - old
                log_ratios += delta
                bounded = tl.where(delta < -LOG_MAX, -LOG_MAX, delta)
                bounded_log_ratios += tl.where(bounded > LOG_MAX, LOG_MAX, bounded)
            if IMPORTANCE:
                gap = old - tl.load(rollout_ptr + at, mask=valid, other=0).to(tl.float32)
                gaps += gap
                if VESPO and not SEQUENCE_IMPORTANCE:
                    weight = capped_importance(tl.exp(gap), IMPORTANCE_CAP, IMPORTANCE_MASKS)
                    log_weight = bounded_log(weight, LOG_MAX, FLOOR)
                    importance_logs += tl.where(valid, log_weight, 0.0)
    if SEQUENCE_RATIO or SEQUENCE_IMPORTANCE:
        length = tl.sum(lengths, axis=1)
        length = tl.where(length > 0, length, 1.0)
    if SEQUENCE_RATIO:
        sequence_log_rho = tl.sum(log_ratios, axis=1) / length
        sequence_rho = tl.exp(sequence_log_rho)
    if SEQUENCE_IMPORTANCE:
        sequence_gap = tl.sum(gaps, axis=1)
        sequence_weight = tl.exp(sequence_gap)
        sequence_importance = capped_importance(sequence_weight, IMPORTANCE_CAP, IMPORTANCE_MASKS)
    log_w = zeros
    if VESPO:
        log_w_sum = tl.sum(bounded_log_ratios, axis=1)
        if SEQUENCE_IMPORTANCE:
            log_w_sum += bounded_log(sequence_importance, LOG_MAX, FLOOR)
        elif IMPORTANCE:
            log_w_sum += tl.sum(importance_logs, axis=1)
        log_w_sum = tl.where(log_w_sum < LOG_MIN, LOG_MIN, log_w_sum)
        log_w += tl.where(log_w_sum > LOG_MAX, LOG_MAX, log_w_sum)[:, None]

    log_rho_grads = zeros
    losses = zeros
    lows = zeros
    highs = zeros
    caps = zeros
    ratios = zeros
    kls = zeros
    entropies = zeros
    importances = zeros
    importance_squares = zeros
    rollout_gaps = zeros
    drops = zeros
    bads = zeros
    ratio_mins = zeros + float("inf")
    ratio_maxs = zeros + float("-inf")
    # With a shared ratio the first walk gathers d loss / d log ρ and every sum, the second writes gradients.
    WALKS: tl.constexpr = 2 if SEQUENCE_RATIO and RHO_HAS_GRAD and WITH_GRAD else 1
    for walk in tl.static_range(WALKS):
        if walk == 1:
            shared_log_rho_grad = tl.sum(log_rho_grads, axis=1) / length
        for start in range(0, T, BLOCK):
            at = base + start + steps
            inside = in_rows & (start + steps < T)
            valid = tl.load(mask_ptr + at, mask=inside, other=0) != 0
            logprob = tl.load(logprob_ptr + at, mask=valid, other=0).to(tl.float32)
            advantage_at = rows[:, None] * advantage_row_stride + (start + steps) * advantage_column_stride
            advantage = tl.load(advantage_ptr + advantage_at, mask=valid, other=0).to(tl.float32)
            total = logprob + advantage
            log_rho = zeros
            rho = zeros + 1.0
            if SEQUENCE_RATIO:
                log_rho = zeros + sequence_log_rho[:, None]
                rho = zeros + sequence_rho[:, None]
            old = logprob
            if old_ptr is not None:
                old = tl.load(old_ptr + at, mask=valid, other=0).to(tl.float32)
                total += old
                if not SEQUENCE_RATIO:
                    log_rho = logprob - old
                    rho = tl.exp(log_rho)

            policy, d_log_rho, d_logprob, low, high, capped = policy_term(
                rho,
                logprob,
                advantage,
                log_w,
                SURROGATE,
                LOWER,
                UPPER,
                DELTA,
                CISPO_MAX,
                TAU_POS,
                TAU_NEG,
                K_POS,
                RATE_POS,
                K_NEG,
                RATE_NEG,
            )
            keep = valid
            if rollout_ptr is not None:
                rollout = tl.load(rollout_ptr + at, mask=valid, other=0).to(tl.float32)
                total += rollout
                if IMPORTANCE:
                    if SEQUENCE_IMPORTANCE:
                        gap = zeros + sequence_gap[:, None]
                        weight = zeros + sequence_weight[:, None]
                        importance = zeros + sequence_importance[:, None]
                    else:
                        gap = old - rollout
                        weight = tl.exp(gap)
                        importance = capped_importance(weight, IMPORTANCE_CAP, IMPORTANCE_MASKS)
                    if not VESPO:
                        # A dropped token is 0 whatever its ratio; NaN stays NaN.
                        dropped = (weight > IMPORTANCE_CAP) & (policy == policy)
                        far = (log_rho > FAR) & (d_log_rho != 0)
                        policy *= importance
                        d_log_rho *= importance
                        d_logprob *= importance
                        if SURROGATE == "clip":
                            # ρ may overflow where the weight vanishes: their product is one power.
                            gap = tl.where(gap > LOG_IMPORTANCE_CAP, LOG_IMPORTANCE_CAP, gap)
                            product = -tl.exp(log_rho + gap) * advantage
                            policy = tl.where(far, product, policy)
                            d_log_rho = tl.where(far, product, d_log_rho)
                        if IMPORTANCE_MASKS:
                            policy = tl.where(dropped, 0.0, policy)
                            d_log_rho = tl.where(dropped, 0.0, d_log_rho)
                            d_logprob = tl.where(dropped, 0.0, d_logprob)
            if entropy_ptr is not None:
                entropy = tl.load(entropy_ptr + at, mask=valid, other=0).to(tl.float32)
                total += entropy
                if threshold_ptr is not None:
                    keep = keep & (entropy >= tl.load(threshold_ptr))
                    policy = tl.where(keep, policy, 0.0)
                    d_log_rho = tl.where(keep, d_log_rho, 0.0)
                    d_logprob = tl.where(keep, d_logprob, 0.0)
            if reference_ptr is not None:
                reference = tl.load(reference_ptr + at, mask=valid, other=0).to(tl.float32)
                total += reference
                kl, d_kl = kl_estimate(logprob, reference, KL)
                if BETA > 0:
                    if KL_RATIO:
                        kl_rho, kl_d_log_rho, kl_d_logprob = kl_times_ratio(
                            kl, d_kl, logprob, reference, log_rho, rho, KL, K3_FAR, SEQUENCE_RATIO
                        )
                        policy += BETA * kl_rho
                        d_log_rho += BETA * kl_d_log_rho
                        d_logprob += BETA * kl_d_logprob
                    else:
                        policy += BETA * kl
                        d_logprob += BETA * d_kl

            if walk == 0:
                log_rho_grads += tl.where(valid, d_log_rho, 0.0)
                losses += tl.where(valid, policy, 0.0)
                if SURROGATE == "clip":
                    lows += (valid & low).to(tl.float32)
                    caps += (valid & capped).to(tl.float32)
                if SURROGATE == "clip" or SURROGATE == "cispo":
                    highs += (valid & high).to(tl.float32)
                if not SEQUENCE_RATIO:
                    ratios += tl.where(valid, rho, 0.0)
                    ratio_mins = tl.minimum(ratio_mins, tl.where(valid, rho, float("inf")))
                    ratio_maxs = tl.maximum(ratio_maxs, tl.where(valid, rho, float("-inf")))
                if reference_ptr is not None:
                    kls += tl.where(valid, kl, 0.0)
                if entropy_ptr is not None:
                    entropies += entropy
                if rollout_ptr is not None:
                    rollout_gaps += tl.where(valid, rollout - old, 0.0)
                    if IMPORTANCE:
                        keep = keep & (importance != 0)
                        if not SEQUENCE_IMPORTANCE:
                            importances += tl.where(valid, importance, 0.0)
                            importance_squares += tl.where(valid, importance * importance, 0.0)
                if IMPORTANCE or threshold_ptr is not None:
                    drops += (valid & ~keep).to(tl.float32)
                # The sum of inputs is finite if each is: log-probs are far from the largest fp32.
                fine = (tl.abs(total) <= LARGEST) & (tl.abs(policy) <= LARGEST)
                bads += (valid & ~fine).to(tl.float32)
            if WITH_GRAD and walk == WALKS - 1:
                grad = d_logprob
                if WALKS == 2:
                    grad += shared_log_rho_grad[:, None]
                elif RHO_HAS_GRAD:
                    grad += d_log_rho
                tl.store(grad_ptr + at, tl.where(valid, grad * row_weight[:, None], 0.0), mask=inside)

    out = sums_ptr + rows * COLUMNS
    here = rows < B
    if SEQUENCE_RATIO:
        tokens = tl.sum(lengths, axis=1)
        ratio_sum = sequence_rho * tokens
        ratio_min = tl.where(tokens > 0, sequence_rho, float("inf"))
        ratio_max = tl.where(tokens > 0, sequence_rho, float("-inf"))
    else:
        ratio_sum = tl.sum(ratios, axis=1)
        # A reduction may drop NaN from an extreme; the sum keeps it.
        is_number = ratio_sum == ratio_sum
        ratio_min = tl.where(is_number, tl.min(ratio_mins, axis=1), ratio_sum)
        ratio_max = tl.where(is_number, tl.max(ratio_maxs, axis=1), ratio_sum)
    tl.store(out + 0, tl.sum(losses, axis=1) * row_weight, mask=here)
    if SURROGATE == "clip":
        tl.store(out + 1, tl.sum(lows, axis=1), mask=here)
        tl.store(out + 3, tl.sum(caps, axis=1), mask=here)
    if SURROGATE == "clip" or SURROGATE == "cispo":
        tl.store(out + 2, tl.sum(highs, axis=1), mask=here)
    tl.store(out + 4, ratio_sum, mask=here)
    if reference_ptr is not None:
        tl.store(out + 5, tl.sum(kls, axis=1), mask=here)
    if entropy_ptr is not None:
        tl.store(out + 6, tl.sum(entropies, axis=1), mask=here)
    if SEQUENCE_IMPORTANCE:
        present = tl.sum(lengths, axis=1) > 0
        tl.store(out + 7, tl.where(present, sequence_importance, 0.0), mask=here)
        tl.store(out + 8, tl.where(present, sequence_importance * sequence_importance, 0.0), mask=here)
    elif IMPORTANCE:
        tl.store(out + 7, tl.sum(importances, axis=1), mask=here)
        tl.store(out + 8, tl.sum(importance_squares, axis=1), mask=here)
    if rollout_ptr is not None:
        tl.store(out + 9, tl.sum(rollout_gaps, axis=1), mask=here)
    if IMPORTANCE or threshold_ptr is not None:
        tl.store(out + 10, tl.sum(drops, axis=1), mask=here)
    tl.store(out + 11, tl.sum(bads, axis=1), mask=here)
    tl.store(out + 12, ratio_min, mask=here)
    tl.store(out + 13, ratio_max, mask=here)
