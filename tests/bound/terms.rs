//! Every term of the bound is needed, and enough.
//!
//! The extremal kernel uses a licence of its contract. Without the term for it the bound is violated, with it
//! kept. A contract of nothing but a binary32 accumulator is the ground that each licence is added to.

use super::extremal::Extremal;
use super::inputs::Distribution;
use super::kernels::Inputs;
use super::simulated::judge;
use attnfuzz::bound::Contract;
use attnfuzz::float::Dtype;
use proptest::prelude::*;

/// A kernel that makes no error but for what `u` alone allows.
const GROUND: [(&str, &str); 25] = [
    ("u", "'2^-24'"),
    ("h_qk", "0"),
    ("k_qk", "0"),
    ("u_in", "0"),
    ("k_s", "0"),
    ("k_x", "0"),
    ("k_m", "0"),
    ("e0", "0"),
    ("e_abs", "0"),
    ("e_tanh", "0"),
    ("r", "0"),
    ("r_comb", "0"),
    ("h_l", "0"),
    ("h_pv", "0"),
    ("k_pv", "0"),
    ("p_round", "'none'"),
    ("s_round", "'none'"),
    ("p_norm", "false"),
    ("p_lse", "false"),
    ("p_den", "'no'"),
    ("e_div", "0"),
    ("w_cut", "0"),
    ("off", "0"),
    ("lazy", "0"),
    ("ftz", "false"),
];

/// The ground with other fields: `field = value` lines.
pub(super) fn contract(fields: &str) -> Contract {
    let mut table: toml::Table = toml::from_str("prescale_lossy = false").unwrap();
    for (name, value) in GROUND {
        table.extend(toml::from_str::<toml::Table>(&format!("{name} = {value}")).unwrap());
    }
    table.extend(toml::from_str::<toml::Table>(fields).unwrap());
    table.try_into().unwrap_or_else(|error| panic!("{fields}: {error}"))
}

/// The extremal kernel's largest error on the row's first column, and its bound under two contracts.
pub(super) struct Tried {
    pub(super) error: f64,
    pub(super) lse_error: f64,
    pub(super) with: f64,
    pub(super) lse_with: f64,
    pub(super) without: f64,
}

pub(super) fn attempt(inputs: &Inputs, with: &Contract, without: &Contract) -> Tried {
    let judged = judge(inputs, with);
    let (mut error, mut lse_error) = (0.0f64, 0.0f64);
    let numbers = with.at(inputs.n() + usize::from(inputs.sink.is_some()), inputs.d);
    for (push, sums_rounded) in [(1.0, false), (-1.0, false), (1.0, true), (-1.0, true)] {
        let kernel = Extremal { contract: &numbers, inputs, exact: judged.o[0], push, sums_rounded };
        let (out, lse) = kernel.run();
        error = error.max((out - judged.o[0]).abs());
        lse_error = lse_error.max((lse - judged.lse).abs());
    }
    let without = judge(inputs, without).bounds.det[0];
    Tried { error, lse_error, with: judged.bounds.det[0], lse_with: judged.lse_bound, without }
}

prop_compose! {
    /// Any contract, with licences from nothing to plenty.
    fn contracts()(
        u in prop::sample::select(&["2^-24", "2^-24", "2^-24", "2^-11"][..]),
        (h_qk, h_l, h_pv) in (depth(), depth(), depth()),
        (k_qk, k_s, k_x, k_m, k_pv) in (0..4u32, few(), few(), few(), 1..5u32),
        (e0, e_abs, e_tanh, e_div, u_in) in (tiny(), tiny(), tiny(), tiny(), tiny()),
        r in prop::sample::select(&["'any'", "0", "1", "3"][..]),
        r_comb in 0..2u32,
        (p_round, p_den) in (
            prop::sample::select(&["none", "f16", "bf16"][..]),
            prop::sample::select(&["no", "yes", "either"][..]),
        ),
        (w_cut, off, lazy) in (
            prop::sample::select(&["0", "'exp(0-20)'"][..]),
            prop::sample::select(&["0", "0", "2.1"][..]),
            prop::sample::select(&["0", "0", "5.5"][..]),
        ),
        (ftz, prescale_lossy, p_norm) in (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2)),
        tc in prop::sample::select(&["", "", "", "tc = { width = 4, bits = 23 }", "tc = { width = 8, bits = 24 }", "tc = { width = 16, bits = 13 }"][..]),
    ) -> String {
        format!(
            "u = '{u}'\nh_qk = {h_qk}\nh_l = {h_l}\nh_pv = {h_pv}\nk_qk = {k_qk}\nk_s = {k_s}\nk_x = {k_x}\nk_m = {k_m}\n\
             k_pv = {k_pv}\ne0 = {e0}\ne_abs = {e_abs}\ne_tanh = {e_tanh}\ne_div = {e_div}\nu_in = {u_in}\nr = {r}\n\
             r_comb = {r_comb}\np_round = '{p_round}'\np_den = '{p_den}'\nw_cut = {w_cut}\noff = {off}\nlazy = {lazy}\n\
             ftz = {ftz}\nprescale_lossy = {prescale_lossy}\np_norm = {p_norm}\n{tc}"
        )
    }
}

fn depth() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["'any'", "'n'", "0"][..])
}

fn few() -> impl Strategy<Value = f64> {
    prop::sample::select(&[0.0, 1.0, 3.5][..])
}

fn tiny() -> impl Strategy<Value = f64> {
    prop::sample::select(&[0.0, 0.0, 3e-7, 1e-4][..])
}

/// A maximum that lags by 5.5 nats is rounded as a number of that size, be the true one near zero: the bound of the
/// log-sum-exp did not know.
#[test]
fn a_lagging_maximum_is_rounded_in_the_log_sum_exp() {
    let contract = contract(
        "u = '2^-11'\nh_qk = 'any'\nh_l = 'any'\nh_pv = 'any'\nk_m = 3.5\nk_pv = 1\nr = 1\nr_comb = 1\nlazy = 5.5\n\
         tc = { width = 4, bits = 23 }",
    );
    let inputs = Distribution::Peaky.row(3, 110, 1, Dtype::F32, 13_067_720_196_336_362_749);
    let tried = attempt(&inputs, &contract, &contract);
    assert!(tried.lse_error > 4.4e-3, "{:e}", tried.lse_error);
    assert!(tried.lse_error <= tried.lse_with, "error {:e}, bound {:e}", tried.lse_error, tried.lse_with);
}

/// Under a maximum that lags, weights reach e^5.5, and the factor that rescales them later may be cut off.
#[test]
fn a_rescale_that_is_cut_off_takes_weights_above_one_with_it() {
    let contract = contract(
        "h_qk = 'any'\nh_l = 'any'\nh_pv = 'any'\nk_pv = 1\nr = 1\np_round = 'bf16'\nw_cut = 'exp(0-20)'\nlazy = 5.5",
    );
    let sink = Some(6.294985);
    let inputs = Inputs { sink, ..Distribution::Cancel.row(4, 95, 1, Dtype::F32, 9_352_827_880_271_797_872) };
    let tried = attempt(&inputs, &contract, &contract);
    assert!(tried.error > 3.5e-9, "{:e}", tried.error);
    assert!(tried.error <= tried.with, "error {:e}, bound {:e}", tried.error, tried.with);
}

/// Four roundings after a weight lost something to the subnormals of its format make that larger.
#[test]
fn what_a_weight_loses_to_underflow_is_rounded_afterwards() {
    let contract =
        contract("u = '2^-11'\nh_qk = 'any'\nh_pv = 'any'\nk_pv = 4\np_round = 'f16'\ntc = { width = 4, bits = 23 }");
    let inputs = Distribution::Underflow.row(4, 1, 1, Dtype::F32, 0);
    let tried = attempt(&inputs, &contract, &contract);
    assert!(tried.error > 5.797e-2, "{:e}", tried.error);
    assert!(tried.error <= tried.with, "error {:e}, bound {:e}", tried.error, tried.with);
}

/// Where products cancel, the computed logit may be far larger than the exact one, and is rounded as such.
#[test]
fn roundings_of_a_logit_are_those_of_the_computed_one() {
    let contract = contract("u = '2^-11'\nh_pv = 'any'\nk_pv = 1\nr = 1\nk_qk = 3\nk_s = 3.5\nprescale_lossy = true");
    let inputs = Distribution::Cancel.row(1, 6, 1, Dtype::F32, 444_845_445_047_636_056);
    let tried = attempt(&inputs, &contract, &contract);
    assert!(tried.lse_error > 1.061, "{:e}", tried.lse_error);
    assert!(tried.lse_error <= tried.lse_with, "error {:e}, bound {:e}", tried.lse_error, tried.lse_with);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_extremal_kernel_keeps_its_bound(
        fields in contracts(),
        distribution in prop::sample::select(&Distribution::ALL[..]),
        dtype in prop::sample::select(&Dtype::ALL[..]),
        n in prop_oneof![1..9usize, 1..70usize],
        d in prop_oneof![1..9usize, 1..130usize],
        softcap in prop_oneof![5 => Just(None), 1 => Just(Some(5.0f32)), 1 => Just(Some(50.0))],
        sink in prop_oneof![5 => Just(None), 1 => (-8.0..8.0f32).prop_map(Some)],
        seed: u64,
    ) {
        let inputs = Inputs { softcap, sink, ..distribution.row(n, d, 1, dtype, seed) };
        let contract = contract(&fields);
        prop_assume!(judge(&inputs, &contract).in_domain);
        let tried = attempt(&inputs, &contract, &contract);
        prop_assert!(tried.error <= tried.with, "error {:e}, bound {:e}\n{fields}", tried.error, tried.with);
        prop_assert!(
            tried.lse_error <= tried.lse_with,
            "log-sum-exp: error {:e}, bound {:e}\n{fields}", tried.lse_error, tried.lse_with,
        );
    }
}
