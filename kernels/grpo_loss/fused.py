"""The GRPO loss and its gradient in one Triton pass, O(B·T) in time and memory.

One program owns one sequence, or several short ones, and walks them in blocks: row sums first where a
sequence-level quantity needs them, then values and gradients together. The launch grid counts sequences, in
its first dimension alone, so no length can exceed it; there are no atomics, so a result never varies.

Every formula here is the one in `formulas.py` with its derivative beside it. Constants reach the kernel as
constexpr: as run-time arguments Triton may take Python floats as fp64.

Shapes: B sequences, T positions.
"""

# mypy: allow-untyped-defs
# Arguments of @triton.jit functions are pointers and values of the kernel language, without Python types.

import triton
import triton.language as tl

LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def _expm1(x):
    # exp(x) − 1 loses every digit near 0; the series to x⁸ is exact to fp32 below ½.
    series = 1 + x / 6 * (1 + x / 7 * (1 + x / 8))
    series = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * series))))
    return tl.where(tl.abs(x) < 0.5, series, tl.exp(x) - 1)


@triton.jit
def _capped_importance(weight, CAP: tl.constexpr, MASKS: tl.constexpr):
    # NaN compares false and so stays NaN.
    if MASKS:
        return tl.where(weight > CAP, 0.0, weight)
    else:
        return tl.where(weight > CAP, CAP, weight)


@triton.jit
def _bounded_log(weight, LOG_MAX: tl.constexpr, FLOOR: tl.constexpr):
    log_weight = tl.log(tl.where(weight < FLOOR, FLOOR, weight))
    return tl.where(log_weight > LOG_MAX, LOG_MAX, log_weight)


@triton.jit
def _kl(logprob, reference, KL: tl.constexpr):
    """Estimate and its derivative in `logprob`."""
    delta = logprob - reference
    if KL == "k1":
        return delta, tl.full(delta.shape, 1.0, tl.float32)
    elif KL == "k2":
        return delta * delta / 2, delta
    elif KL == "k3":
        shrink = _expm1(-delta)
        return shrink + delta, -shrink
    else:
        sign = tl.where(delta > 0, 1.0, tl.where(delta < 0, -1.0, 0.0))
        return tl.abs(delta), sign


@triton.jit
def _policy(
    rho,
    logprob,
    advantage,
    log_w,
    SURROGATE: tl.constexpr,
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
):
    """Token loss, its derivatives in ρ and in log π, and whether it was clipped low, high or capped."""
    zero = tl.zeros(rho.shape, tl.float32)
    never = zero > 0
    low, high, capped = never, never, never
    if SURROGATE == "clip":
        raised = tl.where(rho < LOWER, LOWER, rho)
        inside_negative = rho >= LOWER
        if DELTA is not None:
            raised = tl.where(rho > DELTA, DELTA, raised)
            inside_negative = inside_negative & (rho <= DELTA)
            capped = (rho > DELTA) & (advantage < 0)
        positive = advantage >= 0
        bounded = tl.where(positive, tl.where(rho > UPPER, UPPER, rho), raised)
        inside = (positive & (rho <= UPPER)) | ((advantage < 0) & inside_negative)
        low = (rho < LOWER) & (advantage < 0)
        high = (rho > UPPER) & (advantage > 0)
        return -bounded * advantage, tl.where(inside, -advantage, 0.0), zero, low, high, capped
    elif SURROGATE == "cispo":
        weight = tl.where(rho > CISPO_MAX, CISPO_MAX, rho) * advantage
        high = (rho > CISPO_MAX) & (advantage != 0)
        return -weight * logprob, zero, -weight, low, high, capped
    elif SURROGATE == "sapo":
        tau = tl.where(advantage > 0, TAU_POS, TAU_NEG)
        gate = tl.sigmoid(tau * (rho - 1))
        return -gate * 4 / tau * advantage, -4 * gate * (1 - gate) * advantage, zero, low, high, capped
    else:
        k = tl.where(advantage >= 0, K_POS, K_NEG)
        rate = tl.where(advantage >= 0, RATE_POS, RATE_NEG)
        weight = tl.exp(rate + k * log_w - rate * tl.exp(log_w)) * advantage
        return -weight * logprob, zero, -weight, low, high, capped


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
    BETA: tl.constexpr,
    KL: tl.constexpr,
    KL_RATIO: tl.constexpr,
    IMPORTANCE: tl.constexpr,
    SEQUENCE_IMPORTANCE: tl.constexpr,
    IMPORTANCE_CAP: tl.constexpr,
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
                    weight = _capped_importance(tl.exp(gap), IMPORTANCE_CAP, IMPORTANCE_MASKS)
                    log_weight = _bounded_log(weight, LOG_MAX, FLOOR)
                    importance_logs += tl.where(valid, log_weight, 0.0)
    if SEQUENCE_RATIO or SEQUENCE_IMPORTANCE:
        length = tl.sum(lengths, axis=1)
        length = tl.where(length > 0, length, 1.0)
    if SEQUENCE_RATIO:
        sequence_rho = tl.exp(tl.sum(log_ratios, axis=1) / length)
    if SEQUENCE_IMPORTANCE:
        sequence_importance = tl.exp(tl.sum(gaps, axis=1))
        sequence_importance = _capped_importance(sequence_importance, IMPORTANCE_CAP, IMPORTANCE_MASKS)
    log_w = zeros
    if VESPO:
        log_w_sum = tl.sum(bounded_log_ratios, axis=1)
        if SEQUENCE_IMPORTANCE:
            log_w_sum += _bounded_log(sequence_importance, LOG_MAX, FLOOR)
        elif IMPORTANCE:
            log_w_sum += tl.sum(importance_logs, axis=1)
        log_w_sum = tl.where(log_w_sum < LOG_MIN, LOG_MIN, log_w_sum)
        log_w += tl.where(log_w_sum > LOG_MAX, LOG_MAX, log_w_sum)[:, None]

    rho_grads = zeros
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
    # With a shared ratio the first walk gathers d loss / d ρ and every sum, the second writes gradients.
    WALKS: tl.constexpr = 2 if SEQUENCE_RATIO and RHO_HAS_GRAD and WITH_GRAD else 1
    for walk in tl.static_range(WALKS):
        if walk == 1:
            shared_rho_grad = tl.sum(rho_grads, axis=1) * sequence_rho / length
        for start in range(0, T, BLOCK):
            at = base + start + steps
            inside = in_rows & (start + steps < T)
            valid = tl.load(mask_ptr + at, mask=inside, other=0) != 0
            logprob = tl.load(logprob_ptr + at, mask=valid, other=0).to(tl.float32)
            advantage_at = rows[:, None] * advantage_row_stride + (start + steps) * advantage_column_stride
            advantage = tl.load(advantage_ptr + advantage_at, mask=valid, other=0).to(tl.float32)
            total = logprob + advantage
            rho = zeros + 1.0
            if SEQUENCE_RATIO:
                rho = zeros + sequence_rho[:, None]
            old = logprob
            if old_ptr is not None:
                old = tl.load(old_ptr + at, mask=valid, other=0).to(tl.float32)
                total += old
                if not SEQUENCE_RATIO:
                    rho = tl.exp(logprob - old)

            policy, d_rho, d_logprob, low, high, capped = _policy(
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
                        importance = zeros + sequence_importance[:, None]
                    else:
                        importance = _capped_importance(
                            tl.exp(old - rollout), IMPORTANCE_CAP, IMPORTANCE_MASKS
                        )
                    if not VESPO:
                        policy *= importance
                        d_rho *= importance
                        d_logprob *= importance
            if entropy_ptr is not None:
                entropy = tl.load(entropy_ptr + at, mask=valid, other=0).to(tl.float32)
                total += entropy
                if threshold_ptr is not None:
                    keep = keep & (entropy >= tl.load(threshold_ptr))
                    policy = tl.where(keep, policy, 0.0)
                    d_rho = tl.where(keep, d_rho, 0.0)
                    d_logprob = tl.where(keep, d_logprob, 0.0)
            if reference_ptr is not None:
                reference = tl.load(reference_ptr + at, mask=valid, other=0).to(tl.float32)
                total += reference
                kl, d_kl = _kl(logprob, reference, KL)
                if BETA > 0:
                    if KL_RATIO:
                        policy += BETA * kl * rho
                        d_rho += BETA * kl
                        d_logprob += BETA * d_kl * rho
                    else:
                        policy += BETA * kl
                        d_logprob += BETA * d_kl

            if walk == 0:
                rho_grads += tl.where(valid, d_rho, 0.0)
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
                    grad += shared_rho_grad[:, None]
                elif RHO_HAS_GRAD:
                    grad += d_rho * rho
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
