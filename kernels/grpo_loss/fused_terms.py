"""Terms of the fused GRPO loss: every formula here is the one in `reference.py` with its derivative beside it."""

# mypy: allow-untyped-defs
# Arguments of @triton.jit functions are pointers and values of the kernel language, without Python types.

import triton
import triton.language as tl

LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def expm1(x):
    # exp(x) − 1 loses every digit near 0; the series to x⁸ is exact to fp32 below ½.
    series = 1 + x / 6 * (1 + x / 7 * (1 + x / 8))
    series = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * series))))
    return tl.where(tl.abs(x) < 0.5, series, tl.exp(x) - 1)


@triton.jit
def capped_importance(weight, CAP: tl.constexpr, MASKS: tl.constexpr):
    # NaN compares false and so stays NaN.
    if MASKS:
        return tl.where(weight > CAP, 0.0, weight)
    else:
        return tl.where(weight > CAP, CAP, weight)


@triton.jit
def bounded_log(weight, LOG_MAX: tl.constexpr, FLOOR: tl.constexpr):
    log_weight = tl.log(tl.where(weight < FLOOR, FLOOR, weight))
    return tl.where(log_weight > LOG_MAX, LOG_MAX, log_weight)


@triton.jit
def kl_estimate(logprob, reference, KL: tl.constexpr):
    """Estimate and its derivative in `logprob`."""
    delta = logprob - reference
    if KL == "k1":
        return delta, tl.full(delta.shape, 1.0, tl.float32)
    elif KL == "k2":
        return delta * delta / 2, delta
    elif KL == "k3":
        shrink = expm1(-delta)
        return shrink + delta, -shrink
    else:
        sign = tl.where(delta > 0, 1.0, tl.where(delta < 0, -1.0, 0.0))
        return tl.abs(delta), sign


@triton.jit
def kl_times_ratio(
    kl,
    d_kl,
    logprob,
    reference,
    log_rho,
    rho,
    KL: tl.constexpr,
    FAR: tl.constexpr,
    SEQUENCE_RATIO: tl.constexpr,
):
    """KL · ρ and its derivatives in log ρ and in log π; by token none is 0 · ∞ where the product is finite."""
    delta = logprob - reference
    product = kl * rho
    d_log_rho = product
    d_logprob = d_kl * rho
    if not SEQUENCE_RATIO:
        if KL != "k1":  # whose derivative is not 0 at Δ = 0
            flat = (delta == 0) & (rho > LARGEST)
            product = tl.where(flat, 0.0, product)
            d_log_rho = product
            d_logprob = tl.where(flat, 0.0, d_logprob)
        if KL == "k3":
            # ρ · e^(−Δ) is π_ref / π_old, a constant that would cancel all digits of the derivatives' sum.
            far = delta < -FAR
            product = tl.where(far, tl.exp(log_rho - delta) + (delta - 1) * rho, product)
            d_log_rho = tl.where(far, delta * rho, d_log_rho)
            d_logprob = tl.where(far, 0.0, d_logprob)
    return product, d_log_rho, d_logprob


@triton.jit
def policy_term(
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
    """Token loss, its derivatives in log ρ and in log π, and whether it was clipped low, high or capped.

    The derivative in log ρ is 0 where the loss does not depend on ρ, even if ρ overflows.
    """
    zero = tl.zeros(rho.shape, tl.float32)
    never = zero > 0
    low, high, capped = never, never, never
    if SURROGATE == "clip":
        raised = tl.where(rho < LOWER, LOWER, rho)
        low = (rho < LOWER) & (advantage < 0)
        high = (rho > UPPER) & (advantage > 0)
        positive = advantage >= 0
        if DELTA is not None:
            raised = tl.where(rho > DELTA, DELTA, raised)
            capped = (rho > DELTA) & (advantage < 0)
        policy = -tl.where(positive, tl.where(rho > UPPER, UPPER, rho), raised) * advantage
        # −ρA inside the bounds and 0 outside, never 0 · ∞; each spelling takes the fewest registers in its place.
        if DELTA is None:
            inside = (positive & (rho <= UPPER)) | ((advantage < 0) & (rho >= LOWER))
            d_log_rho = tl.where(inside, policy, 0.0)
        else:
            outside = low | high | capped
            d_log_rho = tl.where(outside, 0.0, -advantage) * tl.where(outside, 1.0, rho)
        return policy, d_log_rho, zero, low, high, capped
    elif SURROGATE == "cispo":
        weight = tl.where(rho > CISPO_MAX, CISPO_MAX, rho) * advantage
        high = (rho > CISPO_MAX) & (advantage != 0)
        return -weight * logprob, zero, -weight, low, high, capped
    elif SURROGATE == "sapo":
        tau = tl.where(advantage > 0, TAU_POS, TAU_NEG)
        gate = tl.sigmoid(tau * (rho - 1))
        bounded = tl.where(rho > LARGEST, LARGEST, rho)
        d_log_rho = -4 * gate * (1 - gate) * advantage * bounded
        return -gate * 4 / tau * advantage, d_log_rho, zero, low, high, capped
    else:
        k = tl.where(advantage >= 0, K_POS, K_NEG)
        rate = tl.where(advantage >= 0, RATE_POS, RATE_NEG)
        weight = tl.exp(rate + k * log_w - rate * tl.exp(log_w)) * advantage
        return -weight * logprob, zero, -weight, low, high, capped
