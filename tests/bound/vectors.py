"""Writes vectors.tsv: the reference and the bounds of many rows, computed by a second implementation.

    python3 vectors.py > vectors.tsv        (Python 3.11 or later, numpy)

The implementation below shares nothing with the Rust one but the formulas. Inputs are functions of an
integer hash, so a vector is only its row number, its shape and its results; the hash and the recipes are
written a second time in vectors.rs. Contracts come from contracts.toml beside this file.
"""
import math
import pathlib
import sys
import tomllib
from types import SimpleNamespace

import numpy as np

MASK = (1 << 64) - 1
FLUSH, SUBNORMAL = 2.0 ** -126, 2.0 ** -149
LAMBDA = 8.0
np.seterr(all="ignore")   # logits beyond any kernel: the bound is the hull, its ingredients overflow


# ------------------------------------------------------------------------------------------ inputs

def mix(x):
    """splitmix64"""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def draw(row, tensor, i):
    return mix((row << 40) ^ (tensor << 36) ^ i)


def unit(h, bits):
    """a number in [-1, 1) with at most `bits` bits"""
    return ((h >> (64 - bits)) - (1 << (bits - 1))) / (1 << (bits - 1))


RECIPES = ['uniform', 'peaky', 'huge', 'tiny', 'zero', 'integer', 'cancel', 'ties', 'constant', 'wide',
           'selector', 'spread', 'subnormal', 'sparse']


def inputs(row, recipe, n, d, dv, bits):
    q = np.array([unit(draw(row, 0, k), bits) for k in range(d)])
    K = np.array([[unit(draw(row, 1, j * d + k), bits) for k in range(d)] for j in range(n)]).reshape(n, d)
    V = np.array([[unit(draw(row, 2, j * dv + t), bits) for t in range(dv)] for j in range(n)]).reshape(n, dv)
    if recipe == 'peaky':
        q = q * 8
    elif recipe == 'huge':
        q, K = q * 32, K * 16
    elif recipe == 'tiny':
        q, K, V = q * 2.0 ** -12, K * 2.0 ** -12, V * 2.0 ** -20
    elif recipe == 'zero':
        q = q * 0
    elif recipe == 'integer':
        q = np.array([float(draw(row, 0, k) % 5) - 2 for k in range(d)])
        K = np.array([[float(draw(row, 1, j * d + k) % 5) - 2 for k in range(d)] for j in range(n)]).reshape(n, d)
        V = V * 8
    elif recipe == 'cancel':
        q = q * 0 + 16
        K = K * 32
        for k in range(1, d, 2):
            K[:, k] = -K[:, k - 1] + K[:, k] / 2048
    elif recipe == 'ties':
        K = K[np.arange(n) % 3] if n >= 3 else K
    elif recipe == 'constant':
        V = np.tile(0.375 * (np.arange(dv) + 1), (n, 1))
    elif recipe == 'wide':
        e = np.array([[float(draw(row, 3, j * dv + t) % 81) - 40 for t in range(dv)] for j in range(n)]).reshape(n, dv)
        V = V * 2.0 ** e
    elif recipe == 'selector':
        q = q * 0
        q[d - 1] = 2048
        for j in range(n):
            K[j, d - 1] = -float(draw(row, 3, j) % 2) if j else 0.0
    elif recipe == 'spread':
        q = q * 0
        q[0] = 8
        for j in range(n):
            K[j, 0] = -float(draw(row, 3, j) % 1024) / 8 if j else 0.0
    elif recipe == 'subnormal':
        q, K, V = q * 2.0 ** 100, K * 2.0 ** -130, V * 2.0 ** -130
    elif recipe == 'sparse':
        q[1:d - 1] = 0
        q = q * 4
    elif recipe == 'enormous':
        q, K = q * 2.0 ** (40 + draw(row, 3, 0) % 64), K * 2.0 ** (draw(row, 3, 1) % 64)
        V = V * 2.0 ** (106 + draw(row, 3, 2) % 16)
    elif recipe == 'faint':
        q, K = q * 2.0 ** -120, K * 2.0 ** 118
    return q, K, V


# --------------------------------------------------------------------------------------- reference

def lowest_bit(x):
    m, e = np.frexp(np.abs(x))
    i = np.ldexp(m, 53).astype(np.int64)
    low = i & -i
    return np.where(i == 0, 10 ** 6, e - 53 + np.log2(np.maximum(low, 1)).astype(np.int64))


def attend(q, K, V, scale, softcap, sink):
    n, d = K.shape
    prod = K * q[None, :]
    r = scale * prod.sum(1)
    s = r if softcap is None else softcap * np.tanh(r / softcap)
    Q = abs(scale) * np.abs(prod).sum(1)
    Q2 = abs(scale) * np.sqrt((prod * prod).sum(1))
    nz = (prod != 0).sum(1)
    low = lowest_bit(q).min() + np.where(prod != 0, lowest_bit(K), 10 ** 6).min(1) if n else np.zeros(0)
    exact = (np.abs(prod).sum(1) <= np.ldexp(1.0, np.clip(low + 23, -1000, 1000).astype(int))) & (low > -140)
    kinf = np.abs(K).max(1) if n else np.zeros(0)
    Ve = V
    if sink is not None:
        r, s = np.append(r, sink), np.append(s, sink)
        Q, Q2, nz, exact, kinf = [np.append(x, 0) for x in (Q, Q2, nz, exact, kinf)]
        exact = exact.astype(bool)
        Ve = np.vstack([V, np.zeros((1, V.shape[1]))])
    M = s.max()
    w = np.exp(s - M)
    L = w.sum()
    p = w / L
    return SimpleNamespace(o=p @ Ve, A=p @ np.abs(Ve), T2=np.sqrt((p * p) @ (Ve * Ve)), r=r, s=s, Q=Q, Q2=Q2, nz=nz,
                           exact=exact, kinf=kinf, qinf=np.abs(q).max(), qnz=int((q != 0).sum()), M=M, L=L, p=p, V=Ve,
                           lse=M + math.log(L), keys=n, n=len(s), d=d, scale=abs(scale), softcap=softcap, sink=sink)


# ---------------------------------------------------------------------------------------- contract

ROUND = {'none': (0.0, 0.0), 'f16': (2.0 ** -11, 2.0 ** -25), 'bf16': (2.0 ** -8, 2.0 ** -134)}


def resolve(table, n, d):
    names = {'n': n, 'd': d, 'ceil': math.ceil, 'max': max, 'min': min, 'ln': math.log, 'exp': math.exp}
    c = SimpleNamespace()
    for key, value in table.items():
        if key in ('p_round', 's_round', 'p_den', 'empty_row', 'p_norm', 'ftz', 'prescale_lossy'):
            setattr(c, key, value)
        elif key == 'tc':
            c.tc = value
        elif value == 'any':
            setattr(c, key, None)
        else:
            setattr(c, key, float(eval(value.replace('^', '**'), names)) if isinstance(value, str) else float(value))
    if 'tc' not in table:
        c.tc = None
    c.u_p, c.tau_p = ROUND[c.p_round]
    c.k_s += ROUND[c.s_round][0] / c.u
    c.w_cut = max(c.w_cut, FLUSH if c.ftz else SUBNORMAL)
    c.tau = FLUSH if c.ftz else 2.0 ** -150
    c.last = FLUSH if c.ftz else 3 * SUBNORMAL
    c.block = (c.tc['width'] + 1) * 2.0 ** -c.tc['bits'] + 2.0 ** -23 if c.tc else None
    return c


def g(h, u):
    return np.expm1(h * math.log1p(u))


# ------------------------------------------------------------------------------------------ bounds

def weight_error(r, c):
    n, d, u = r.n, r.d, c.u
    key = np.arange(n) < r.keys
    raw = np.abs(r.r)
    if c.tc:
        blocks = -(-d // c.tc['width']) + 0 * r.nz
        dot = np.expm1((np.minimum(blocks, r.nz) if c.tc['bits'] >= 23 else blocks) * c.block) + g(c.k_qk, u)
    else:
        dot = g(np.minimum(d if c.h_qk is None else c.h_qk, np.maximum(r.nz - 1, 0)) + c.k_qk, u)
    gin = c.u_in * (2 + c.u_in)
    Ds = r.Q * (dot + gin + dot * gin)
    exact = r.exact & (not c.prescale_lossy) & (u <= 2.0 ** -24) & (c.u_in == 0) & (c.tc is None or c.tc['bits'] >= 23)
    Ds = np.where(exact, 0.0 if math.frexp(r.scale)[0] == 0.5 else u * raw, Ds)
    Du = np.full(n, r.scale * c.tau * (2 * d + 2))
    if c.ftz:
        Du += r.scale * d * FLUSH * (r.qinf + r.kinf)
    if c.prescale_lossy:
        Du += d * c.tau * r.kinf
    Ds = Ds + (c.k_s * u * (raw + Ds) + Du)
    if r.softcap is not None:
        before = Ds + r.softcap * c.e_tanh + np.minimum(0.45 * r.softcap, raw + Ds) * g(3, u)
        Du = Du + 4 * r.softcap * c.tau
        Ds = before + u * (np.abs(r.s) + before) + 4 * r.softcap * c.tau
    Ds = np.where(key, Ds, (c.k_s + 1) * u * np.abs(r.s) + 4 * c.tau)
    Du = np.where(key, Du, 4 * c.tau)
    X = (r.s + Ds).max() - r.s + Ds
    reach = lambda m: max(abs((r.s + Ds)[:m].max()), abs((r.s - Ds)[:m].max()))
    size = np.maximum(np.abs(r.s) + Ds, reach(r.n))
    if r.sink is not None and r.keys:
        X[-1] = max(X[-1], r.s[-1] - (r.s - Ds)[:-1].max() + Ds[-1])
        size[-1] = max(size[-1], reach(r.keys))
    size = size + max(c.lazy, c.off)
    # rescales
    R = np.zeros(n)
    if c.r is None or c.r + (r.sink is not None) > 0:
        before = c.prescale_lossy or c.u_in > 0
        single = (r.nz == 1) & (not before or r.qnz == 1)
        ordered = key & ((r.nz == 0) | ((r.softcap is None) & (single | exact)))
        for j in range(n):
            larger = r.s + Ds > r.s[j] - Ds[j]
            if ordered[j]:
                larger = np.where(ordered, r.s > r.s[j], larger)
            larger[j] = False
            R[j] = larger.sum()
        if c.r is not None:
            R = np.minimum(R, c.r + (r.sink is not None))
    R = R + c.r_comb
    D = Ds + u * c.k_x * (X + 2 * c.lazy + c.off) + u * c.k_m * size * (1 + u * c.k_x) + c.e_abs + (R + 1) * c.e0 * (1 + c.e0)
    return D, Du, R, X


def depth(h, r):
    return r.n if h is None else min(r.n, h + (r.sink is not None))


def shared(r, c):
    D, Du, R, X = weight_error(r, c)
    Dc = np.minimum(D, 700.0)
    rel = np.exp(r.s - r.M)
    off = math.exp(c.off)
    cut = c.w_cut if r.sink is None else max(c.w_cut, FLUSH)
    if c.e_abs > 0:
        cut = max(cut, r.n * (FLUSH if c.ftz else SUBNORMAL))
    drop = rel <= cut * math.exp(c.off + c.lazy) * np.exp(Dc)
    eta = np.expm1(Dc)
    eta = np.where(drop, np.maximum(eta, 1.0), eta)
    least = np.where(drop, 0.0, np.exp(-Dc))
    if c.p_den == 'yes' and c.u_p > 0:
        lost = c.tau_p * off / np.maximum(rel, 1e-300)
        least = np.maximum(least * (1 - c.u_p) - lost, 0.0)
        eta = (1 + eta) * (1 + c.u_p) - 1 + np.minimum(lost, 1 + eta)
    return D, Du, R, X, Dc, off, drop, eta, float((r.p * least).sum())


def exact_bound(r, c):
    """largest logit exactly 0, others far below: weights are 1 and 0; None, or a bound per column (inf: no)"""
    if (c.u > 2.0 ** -24 or c.u_in or (c.tc and c.tc['bits'] < 23) or c.off or c.e_abs or c.e0 > 2.0 ** -20
            or c.p_norm or (c.tc and c.u_p == 0) or r.M != 0):
        return np.inf
    D = weight_error(r, c)[0]
    sure = (r.nz == 0) | (r.exact & (not c.prescale_lossy) & (r.softcap is None))
    top = (r.s == 0) & sure & (np.arange(r.n) < r.keys)
    if (r.s + D > -105.0)[~top].any():
        return np.inf
    V = r.V[top]
    low = lowest_bit(V).min(0)
    fits = ((low >= -126) & (np.abs(V).sum(0) <= np.ldexp(1.0, np.clip(low + 23, -1000, 1000).astype(int)))) | (V == 0).all(0)
    o = np.abs(r.o)
    return np.where(fits, c.e_div * o + 8 * r.n * SUBNORMAL * (np.abs(r.V).max(0) + o) + c.last, np.inf)


def bounds(r, c, lam):
    n, d, u = r.n, r.d, c.u
    D, Du, R, X, Dc, off, drop, eta, Z = shared(r, c)
    absV, dev = np.abs(r.V), np.abs(r.V - r.o)
    pe = r.p * eta
    pp = r.p + pe
    hull = np.maximum(r.V.max(0) - r.o, r.o - r.V.min(0))
    if Z > 0:
        Ew = np.minimum(pe @ dev / Z, hull)
        Ah = np.minimum(pp @ absV / Z, absV.max(0))
        Dh = np.minimum(pp @ dev / Z, hull)
    else:
        Ew, Ah, Dh = hull, absV.max(0), hull
    unit_w = off * min(1 / (r.L * Z) if Z > 0 else math.inf, 2.0)
    unit_w = max(unit_w, 1.0) if c.e_abs > 0 else unit_w
    unit = 1.0 if c.p_norm else unit_w
    Rmax = R.max()
    h_l, h_pv = depth(c.h_l, r), depth(c.h_pv, r)
    mu = g(h_l + Rmax + 1, u)
    if c.tc:
        blocks = -(-n // c.tc['width']) + Rmax + 1
        grow = np.expm1(blocks * c.block) + g(Rmax + c.k_pv, u)
    else:
        grow = g(h_pv + Rmax + c.k_pv, u)
    S = grow * Ah
    if not c.tc:
        ps = np.sort(r.p)[::-1]
        tail = np.append(np.cumsum(ps[::-1])[::-1][1:], 0.0)
        thr = ps[int(np.argmin(u * (np.arange(n) + 3) + tail))]
        small = r.p < thr
        if small.any():
            Kl = int((~small).sum())
            infl = (1 + 2 * g(n, u)) * math.exp(min(2 * D[~small].max(), 100.0))
            S = np.minimum(S, (u * (Kl + Rmax + c.k_pv + 1) * Ah + (pp * small) @ absV / max(Z, 1e-300)) * infl)
            mu = min(mu, (u * (Kl + Rmax + 2) + (pp * small).sum() / max(Z, 1e-300)) * infl)
    u_num = (1 + (0.0 if c.p_den == 'yes' and not c.p_norm else c.u_p)) * (1 + c.u_in) ** 2 * (1 + (c.e_div if c.p_norm else 0.0)) - 1
    z = (3 * n + Rmax + 4) * c.tau * unit
    Eun = 3 * SUBNORMAL * unit_w * dev.sum(0) + (2 * FLUSH if c.ftz else 0.0)
    tau_p = max(c.tau_p, c.tau) if c.p_norm else c.tau_p
    if tau_p > 0:
        tw = np.minimum(pp / Z if Z > 0 else np.inf, tau_p * unit) * np.ones(n)
        Eun = Eun + tw @ (np.maximum(absV, dev) if c.p_den == 'either' else absV)
    Eref = 2.0 ** -53 * ((n + 16) * (r.A + np.abs(r.o))
                         + (r.p * ((d + 4) * r.Q + 4 * np.abs(r.s) + 4 * (r.M - r.s) + 8)) @ dev)

    def total(S, P, Ew, o):
        En = (S * (1 + u_num) + P + mu * o + (Eun + z * (1 + o)) * (1 + grow)) / (1 - mu - z)
        return Ew + En + c.e_div * (o + En) + c.last

    if mu + z >= 0.5:
        inf = np.full_like(r.o, np.inf)
        return inf, inf, inf
    P = u_num * (np.maximum(Ah, Dh * (1 + 2 * c.u_p)) if c.p_den == 'either' else Ah)
    det = np.fmin(total(S, P, Ew, np.abs(r.o) + Ew), exact_bound(r, c))
    if Z <= 0:
        return det + Eref, det + Eref, det + Eref
    # random signs
    lam_n = math.sqrt(lam * lam + 2 * math.log(max(n, 2)))
    Ew1 = (lam * np.sqrt((pe * pe) @ (r.V * r.V)) + np.abs(r.o) * pe.sum()) / Z
    o1 = np.abs(r.o) + Ew1
    T = np.sqrt((pp * pp) @ (r.V * r.V)) / Z
    others = math.sqrt(n * Rmax) + (c.k_pv + c.r_comb) * math.sqrt(n)
    gs = blocks * c.block + u * others if c.tc else u * (math.sqrt(n * h_pv) + others)
    S1 = np.minimum(S, gs * lam_n * T * (1 + 2 * g(n, u)))
    P1 = u_num * (lam * T + (o1 * (1 + 2 * c.u_p) if c.p_den == 'either' else 0.0))
    sgn = np.fmin(total(S1, P1, Ew1, o1), det) + Eref
    # independent roundings
    dot = (-(-d // c.tc['width']) * c.block if c.tc else
           u * np.sqrt(np.minimum(d if c.h_qk is None else c.h_qk, r.nz) + c.k_qk)) * np.minimum(r.Q, 3 * r.Q2)
    var = (dot ** 2 + u * u * (c.k_x * X * X + c.k_m * np.maximum(np.abs(r.s), abs(r.M)) ** 2 + c.k_s * r.r ** 2)
           + (np.minimum(R, 64) + 1) * c.e0 ** 2 + c.e_abs ** 2 + 2 * (c.u_in * r.Q2) ** 2)
    if r.softcap is not None:
        var = var + (r.softcap * (c.e_tanh + 3 * u)) ** 2
    R64 = min(Rmax, 64)
    A3 = np.minimum(r.A, 3 * r.T2)
    Sh = ((-(-n // c.tc['width']) + R64 + 1) * c.block if c.tc else lam * u * math.sqrt(h_pv + R64 + c.k_pv)) * A3
    Ph = lam * math.sqrt(c.u_p ** 2 + 2 * c.u_in ** 2) * r.T2
    if c.p_den != 'no':
        Ph = Ph + lam * c.u_p * math.sqrt(float(r.p @ r.p)) * np.abs(r.o)
    tot = (lam * np.sqrt((r.p ** 2 * var) @ (dev * dev)) + (r.p * (u * 0.5 * X + Du)) @ dev + Sh + Ph
           + lam * u * math.sqrt(h_l + R64 + 1) * np.abs(r.o) + Eun + z * (1 + np.abs(r.o)))
    hm = tot * (1 + 1e-3) + c.e_div * (np.abs(r.o) + tot) + Eref + np.where(drop, r.p, 0.0) @ dev + c.last
    return det + Eref, sgn, np.minimum(hm, det + Eref)


def lse_bound(r, c):
    D, Du, R, X, Dc, off, drop, eta, Z = shared(r, c)
    mu = g(depth(c.h_l, r) + R.max() + 1, c.u)
    if mu >= 0.5:
        return math.inf
    e = math.log(float((r.p * np.exp(Dc)).sum()))
    if drop.any():
        e = max(e, -math.log(Z) if Z > 0 else math.inf)
    if c.p_den != 'no':
        e += c.u_p + c.tau_p * r.n * off / r.L
    astray = max(c.lazy, c.off)
    return (e + mu / (1 - mu) + 2.0 ** -21.4 + 8 * c.u * (abs(r.lse) + abs(r.M) + astray)
            + 3 * c.u * (abs(math.log(r.L)) + astray))


# ----------------------------------------------------------------------------------------- vectors

def main():
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 2400
    contracts = tomllib.loads((pathlib.Path(__file__).parent / 'contracts.toml').read_text())
    names = list(contracts)
    print('# row recipe contract bits n d v_head_dim scale softcap sink column o det sgn hm lse lse_bound')
    for row in range(rows):
        pick = lambda i, choices: choices[draw(row, 7, i) % len(choices)]
        recipe, name = RECIPES[row % len(RECIPES)], names[row // len(RECIPES) % len(names)]
        n = pick(0, [1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 33, 64, 65, 100, 127, 257])
        d, dv, bits = pick(1, [2, 3, 7, 16, 32, 64, 80]), pick(2, [1, 2, 3, 5]), pick(3, [24, 11, 8])
        scale = float(np.float32(pick(4, [0.125, 0.08838834764831845, 0.17677669, 1.0])))
        softcap = pick(5, [None, None, None, None, None, None, 4.0, 30.0])
        sink = pick(6, [None, None, None, None, None, 0.0, 1.75, -20.0, 95.0])
        column = draw(row, 7, 8) % dv
        q, K, V = inputs(row, recipe, n, d, dv, bits)
        r = attend(q, K, V, scale, softcap, sink)
        c = resolve(contracts[name], r.n, d)
        det, sgn, hm = bounds(r, c, LAMBDA)
        results = [r.o[column], det[column], sgn[column], hm[column], r.lse, lse_bound(r, c)]
        fields = [row, recipe, name, bits, n, d, dv, scale, softcap or '-', '-' if sink is None else sink, column]
        print('\t'.join(map(str, fields)), *(f'{x:.10e}' for x in results), sep='\t')


if __name__ == '__main__':
    main()
