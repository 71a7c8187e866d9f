"""Writes prototype.tsv: what an earlier prototype of the bounds says of many rows, and why Rust says otherwise.

    python3 prototype.py PATH > prototype.tsv    (PATH: the prototype's bounds.py; numpy, numba)

PATH is not part of this project, and nothing here needs it: the table is kept, and prototype.rs compares
with it. A result is what the prototype says. Where Rust is known to say something else, the result is
`said/why/meant`: what it says, the names of the deviations that matter, and what it says once its source is
edited as EDITS tells. Every deviation is one of SWITCHES; prototype.rs says why it is right. Inputs are those
of vectors.py. The prototype has neither softcap nor sink, so no row here has one.
"""
import pathlib
import sys
import tomllib
import types

import numpy as np

from vectors import LAMBDA, RECIPES, draw, inputs, resolve

# Name of each deviation, and whether it makes bounds larger (+), smaller (-) or either (?).
SWITCHES = {'order': '+', 'declared': '-', 'bits': '+', 'prescale': '+', 'combine': '+', 'rounded': '+',
            'depth': '-', 'hull': '-', 'unit': '+', 'format': '+', 'exact': '-', 'terms': '?', 'nodes': '?', 'lse': '+',
            'domain': '+', 'overhang': '+', 'amplified': '+',
            'computed': '+'}

# Old text, and new text that says the same while no switch is on.
EDITS = [
    ('Rj = rank + c.R_comb', 'Rj = (outranked(r, c, Ds) if "order" in ON else rank) + c.R_comb'),
    ('Rj = np.full(n, c.R + c.R_comb)',
     'Rj = (np.minimum(c.R, outranked(r, c, Ds)) if "declared" in ON else np.full(n, c.R)) + c.R_comb'),
    ('gqk = np.minimum(-(-d // w), r.nz) *',
     'gqk = np.minimum(-(-d // w), d if "bits" in ON and F < 23 else r.nz) *'),
    ('if c.u == U32 and c.u_in == 0:',
     'if c.u == U32 and c.u_in == 0 and not ("bits" in ON and c.tc is not None and c.tc[1] < 23):'),
    ('+ c.k_s * u * absS\n', '+ c.k_s * u * (absS + after_dot(r, gqk, gin))\n'),
    ('Mabs = np.maximum(absS, abs(r.M))', 'Mabs = size(r, c, Ds)'),
    ('    Ds = Ds + Duf\n', '    if "prescale" in ON and c.prescale_lossy: Duf = Duf + d * tau * r.kinf\n    Ds = Ds + Duf\n'),
    ('    e_off = math.exp(c.off)\n', '    e_off = math.exp(c.off)\n    c = cut(r, c)\n'),
    ('eta_d = (1 + eta_d) * (1 + c.u_p) - 1 + np.minimum(1.0, c.tau_p / np.maximum(wrel, 1e-300))',
     'eta_d = (1 + eta_d) * (1 + c.u_p) - 1 + (np.minimum(1 + eta_d, lost(r, c)) if "rounded" in ON else '
     'np.minimum(1.0, c.tau_p / np.maximum(wrel, 1e-300)))'),
    ('        drop = wrel <= c.w_cut * e_off *', '        drop = wrel <= c.w_cut * overhang(c) *'),
    ('mu * o_up + Eun + tau_abs * (1 + o_up))', 'mu * o_up + (Eun + tau_abs * (1 + o_up)) * after(gt))'),
    ('mu * o1 + Eun + tau_abs * (1 + o1))', 'mu * o1 + (Eun + tau_abs * (1 + o1)) * after(gt))'),
    ('Zm = float(np.sum(np.where(drop, 0.0, r.p * np.exp(-np.minimum(D, 700.0)))))',
     'Zm = kept(r, c, drop, D); unit = denominator_unit(r, c, e_off, Zm)'),
    ('    h_l = (n if c.h_l < 0 else c.h_l)\n', '    h_l = (n if c.h_l < 0 else depth(c.h_l, n))\n'),
    ('    h_pv = (n if c.h_pv < 0 else c.h_pv)\n', '    h_pv = (n if c.h_pv < 0 else depth(c.h_pv, n))\n'),
    ('tau_abs = (2 * n + Rmax + 4) * tau * (1.0 if c.p_norm else e_off / r.L)',
     'tau_abs = ((3 if "unit" in ON else 2) * n + Rmax + 4) * tau * (1.0 if c.p_norm else unit)'),
    ('tp = c.tau_p * (1.0 if c.p_norm else e_off / r.L)',
     'tau_p = max(c.tau_p, tau) if "format" in ON and c.p_norm else c.tau_p; tp = tau_p * (1.0 if c.p_norm else unit)'),
    ('tw = np.minimum(r.p * (1 + eta), tp)',
     'tw = np.minimum((r.p * (1 + eta_d) / Zm if Zm > 0 else np.inf) if "format" in ON else r.p * (1 + eta), tp)'
     ' * np.ones(n)'),
    ('if c.tau_p > 0 else 0.0', 'if tau_p > 0 else 0.0'),
    ('3 * 2.0 ** -149 * e_off / r.L * dev.sum(0)', '3 * 2.0 ** -149 * unit * dev.sum(0)'),
    ('Dh = ((r.p + pe) @ dev) / Zm',
     'Dh = ((r.p + pe) @ dev) / Zm; Dh = np.minimum(Dh, hull) if "hull" in ON else Dh'),
    ("    out = {'det': det + Eref}\n",
     "    if 'exact' in ON: det = np.fmin(det, exact_rows(r, c, D))\n    out = {'det': det + Eref}\n"),
    ('        if c.tc is not None:\n            gs =',
     '        if "terms" in ON: T2 = np.sqrt(((r.p + pe) ** 2) @ (r.V * r.V)) / Zm\n'
     '        if "nodes" in ON: gs = nodes(c, n, Rmax, h_pv)\n'
     '        elif c.tc is not None:\n            gs ='),
    ('mu = g((r.n if c.h_l < 0 else c.h_l) + int(Rj.max()) + 1, c.u)\n',
     'mu = g((r.n if c.h_l < 0 else depth(c.h_l, r.n)) + int(Rj.max()) + 1, c.u)\n'
     '    if "lse" in ON and mu >= 0.5: return math.inf\n'),
    ('    if c.p_den:\n        e += c.u_p + c.tau_p * r.n / r.L\n',
     '    if "lse" in ON: e = max(e, dropped_log(r, c, D))\n'
     '    if c.p_den:\n        e += c.u_p + c.tau_p * r.n * (math.exp(c.off) if "lse" in ON else 1) / r.L\n'),
    ('    return e + mu / (1 - mu) + 2.0 ** -21.4 + 8 * c.u * (abs(r.lse) + abs(r.M)) + 3 * c.u * abs(math.log(r.L))',
     '    astray = max(c.lazy, c.off) if "lse" in ON else 0.0\n'
     '    return e + mu / (1 - mu) + 2.0 ** -21.4 + 8 * c.u * (abs(r.lse) + abs(r.M) + astray) '
     '+ 3 * c.u * (abs(math.log(r.L)) + astray)'),
    ('    lazy = 256.0\n', '    lazy = max(256.0, math.exp(c.lazy)) if "domain" in ON else 256.0\n'),
]

# What the edited text calls.
HELPERS = '''
ON = frozenset()

def keeps_24_bits(c):
    return c.u <= U32 and c.u_in == 0 and (c.tc is None or c.tc[1] >= 23)

def outranked(r, c, Ds):
    """how many other logits may be computed larger"""
    exact = r.exact & (not c.prescale_lossy) & keeps_24_bits(c)
    single = (r.nz == 1) & (not (c.prescale_lossy or c.u_in > 0) or r.qnz == 1)
    ordered = (r.nz == 0) | single | exact
    larger = r.s[None, :] + Ds[None, :] > r.s[:, None] - Ds[:, None]
    sure = ordered[None, :] & ordered[:, None]
    larger = np.where(sure, r.s[None, :] > r.s[:, None], larger)
    np.fill_diagonal(larger, False)
    return larger.sum(1)

def cut(r, c):
    if 'combine' in ON and c.e_abs > 0:
        return replace(c, w_cut=max(c.w_cut, r.n * (TINY32 if c.ftz else 2.0 ** -149)))
    return c

def after_dot(r, gqk, gin):
    return r.Q * ((1 + gqk) * (1 + gin) - 1) if 'computed' in ON else 0.0

def size(r, c, Ds):
    if 'computed' not in ON:
        return np.maximum(np.abs(r.s), abs(r.M))
    top = max(abs((r.s + Ds).max()), abs((r.s - Ds).max()))
    return (np.maximum(np.abs(r.s) + Ds, top) + max(c.lazy, c.off)) * (1 + c.u * c.k_x)

def overhang(c):
    return math.exp(c.off + c.lazy if 'overhang' in ON else c.off)

def after(growth):
    return 1 + growth if 'amplified' in ON else 1.0

def lost(r, c):
    return c.tau_p * math.exp(c.off) / np.maximum(np.exp(r.s - r.M), 1e-300)

def kept(r, c, drop, D):
    least = np.where(drop, 0.0, np.exp(-np.minimum(D, 700.0)))
    if 'rounded' in ON and c.p_den == 1 and c.u_p > 0:
        least = np.maximum(least * (1 - c.u_p) - lost(r, c), 0.0)
    return float((r.p * least).sum())

def denominator_unit(r, c, e_off, Zm):
    unit = e_off * min(1 / (r.L * Zm) if Zm > 0 else math.inf, 2.0) if 'unit' in ON else e_off / r.L
    return max(unit, 1.0) if 'combine' in ON and c.e_abs > 0 else unit

def depth(h, n):
    return min(h, n) if 'depth' in ON else h

def exact_rows(r, c, D):
    if not keeps_24_bits(c) or c.off or c.e_abs or c.e0 > 2.0 ** -20 or c.p_norm or (c.tc and c.u_p == 0) or r.M != 0:
        return np.inf
    top = (r.s == 0) & ((r.nz == 0) | (r.exact & (not c.prescale_lossy)))
    if (r.s + D > -105.0)[~top].any():
        return np.inf
    V = r.V[top]
    low = lowbit_exp(V).min(0)
    fits = (low >= -126) & (np.abs(V).sum(0) <= np.ldexp(1.0, np.clip(low + 23, -1000, 1000).astype(int)))
    o, last = np.abs(r.o), TINY32 if c.ftz else 3 * 2.0 ** -149
    return np.where(fits | (V == 0).all(0),
                    c.e_div * o + 8 * r.n * 2.0 ** -149 * (np.abs(r.V).max(0) + o) + last, np.inf)

def nodes(c, n, Rmax, h_pv):
    others = math.sqrt(n * Rmax) + (c.k_pv + c.R_comb) * math.sqrt(n)
    if c.tc is None:
        return c.u * (math.sqrt(n * h_pv) + others)
    return (-(-n // c.tc[0]) + Rmax + 1) * ((c.tc[0] + 1) * 2.0 ** -c.tc[1] + 2.0 ** -23) + c.u * others

def dropped_log(r, c, D):
    c = cut(r, c)
    drop = np.exp(r.s - r.M) <= c.w_cut * overhang(c) * np.exp(np.minimum(D, 700.0))
    Zm = kept(r, c, drop, D)
    return -math.inf if not drop.any() else math.inf if Zm <= 0 else -math.log(Zm)
'''


def module(path, name, source):
    made = types.ModuleType(name)
    sys.modules[name] = made   # dataclasses look their module up
    exec(compile(source, f'{path} ({name})', 'exec'), made.__dict__)
    return made


def load(path):
    """the prototype as it is, and edited"""
    sys.path.insert(0, str(path.parent))
    source = path.read_text()
    edited = source
    for old, new in EDITS:
        assert edited.count(old) == 1, f'expected once, found {edited.count(old)} times: {old}'
        edited = edited.replace(old, new)
    return module(path, 'said', source), module(path, 'meant', edited + HELPERS)


def contract(proto, c):
    any_order = lambda h: -1 if h is None else int(h)
    return proto.Contract(
        u=c.u, h_qk=any_order(c.h_qk), k_qk=c.k_qk, tc=(c.tc['width'], c.tc['bits']) if c.tc else None, u_in=c.u_in,
        k_s=c.k_s, k_x=c.k_x, k_M=c.k_m, e_abs=c.e_abs, e0=c.e0, R=any_order(c.r), R_comb=int(c.r_comb),
        h_l=any_order(c.h_l), h_pv=any_order(c.h_pv), k_pv=c.k_pv, u_p=c.u_p, tau_p=c.tau_p, p_norm=c.p_norm,
        p_den={'no': 0, 'yes': 1, 'either': 2}[c.p_den], e_div=c.e_div, w_cut=c.w_cut, off=c.off, lazy=c.lazy,
        ftz=c.ftz, prescale_lossy=c.prescale_lossy)


def results(proto, r, c, column):
    found = proto.bounds(r, contract(proto, c), LAMBDA)
    return ([float(found[tier][column]) for tier in ('det', 'sgn', 'hm20')]
            + [float(proto.lse_bound(r, contract(proto, c))), float(proto.domain_ok(r, contract(proto, c)))])


def same(a, b, tolerance):
    return a == b or abs(a - b) <= tolerance * abs(b)


def row_results(said, meant, r, c, column):
    def with_switches(on):
        meant.ON = frozenset(on)
        return results(meant, r, c, column)
    plain, none, every = results(said, r, c, column), with_switches([]), with_switches(SWITCHES)
    each = {name: (with_switches([name]), with_switches(SWITCHES.keys() - {name})) for name in SWITCHES}
    fields = []
    for i, (p, e) in enumerate(zip(plain, every)):
        assert same(none[i], p, 1e-12), 'an edit changes more than its switch does'
        text = (lambda x: f'{x:.0f}') if i == 4 else (lambda x: f'{x:.9e}')

        def names(tolerance):
            return [name for name, (alone, without) in each.items()
                    if not (same(alone[i], p, tolerance) and same(without[i], e, tolerance))]
        # A fifth of what prototype.rs allows; less where only several together exceed that.
        why = names(2e-7) or ([] if same(p, e, 2e-7) else names(1e-9))
        assert why or same(p, e, 2e-7)
        fields.append(f'{text(p)}/{",".join(why)}/{text(e)}' if why else text(p))
    return ['=' if i and field == fields[i - 1] else field for i, field in enumerate(fields)]


def main():
    said, meant = load(pathlib.Path(sys.argv[1]).resolve())
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else 2400
    contracts = tomllib.loads((pathlib.Path(__file__).parent / 'contracts.toml').read_text())
    names, recipes = list(contracts), RECIPES + ['enormous', 'faint']
    print('# row recipe contract bits n d v_head_dim scale column det sgn hm lse_bound domain_ok')
    for row in range(10_000, 10_000 + rows):
        pick = lambda i, choices: choices[draw(row, 7, i) % len(choices)]
        recipe, name = recipes[row % len(recipes)], names[row // len(recipes) % len(names)]
        n = pick(0, [1, 2, 3, 4, 6, 8, 12, 16, 25, 40, 64, 90, 128, 300, 1100])
        d, dv, bits = pick(1, [2, 3, 5, 16, 40, 64]), pick(2, [1, 2, 3]), pick(3, [24, 11, 8])
        scale = float(np.float32(pick(4, [0.125, 0.08838834764831845, 0.25, 1.0])))
        column = draw(row, 7, 8) % dv
        q, K, V = inputs(row, recipe, n, d, dv, bits)
        r = said.reference(q, K, V, scale)
        r.qnz = int((q != 0).sum())
        fields = row_results(said, meant, r, resolve(contracts[name], n, d), column)
        print(row, recipe, name, bits, n, d, dv, scale, column, *fields, sep='\t')


if __name__ == '__main__':
    main()
