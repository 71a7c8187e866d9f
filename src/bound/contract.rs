//! What a kernel's author promises about its arithmetic.

use super::formula::{Depth, Formula, FormulaError};
use crate::case::{Case, Knobs};
use crate::float::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Declares [`Contract`] and its twin in which every field may be missing, from one list.
macro_rules! contract {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// A kernel's numerics contract: what its order, its approximations and its roundings can cost.
        ///
        /// Errors are counted in units of `u`, the accumulator's unit roundoff, unless a field says
        /// otherwise. Every number may be an expression in `n` (elements of the row), `d` (head dim), the
        /// kernel's knobs and the [`Constant`](super::Constant)s.
        ///
        /// In TOML a contract is a table: an optional `preset` (`any` without one), and the fields
        /// that differ from it.
        ///
        /// ```
        /// let contract: attnfuzz::bound::Contract = toml::from_str(r#"
        ///     preset = "split"
        ///     r = "ceil(n/4) - 1"
        ///     h_l = "ceil(n/4) + 4"
        ///     h_pv = "ceil(n/4) + 4"
        /// "#)?;
        /// assert_eq!(contract.at(10, 64).h_pv, Some(7.0));
        /// # Ok::<(), toml::de::Error>(())
        /// ```
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(try_from = "Patch")]
        pub struct Contract {
            $($(#[$doc])* pub $field: $type,)*
            /// Tensor cores do the dot product and the sum over values.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub tc: Option<TensorCore>,
            /// What holds instead for tensors of 16-bit elements, where the kernel treats them otherwise than binary32. In
            /// TOML a table `[numerics.16-bit]` with the fields that differ.
            #[serde(rename = "16-bit", skip_serializing_if = "Option::is_none")]
            pub narrow: Option<Box<Contract>>,
        }

        /// A preset's name, and fields that replace its.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Patch {
            preset: Option<String>,
            tc: Option<TensorCore>,
            #[serde(rename = "16-bit")]
            narrow: Option<Box<Patch>>,
            $($field: Option<$type>,)*
        }

        impl Contract {
            fn patched(mut self, patch: &Patch) -> Self {
                if patch.tc.is_some() {
                    self.tc = patch.tc;
                }
                $(if let Some(value) = &patch.$field {
                    self.$field = value.clone();
                })*
                self
            }

            /// The contract of a patch that has every field (`tc` may be missing).
            fn complete(patch: Patch) -> Option<Self> {
                Some(Self { tc: patch.tc, narrow: None, $($field: patch.$field?,)* })
            }

            /// Checks each number under `settings` of the knobs, see [`Formula::check`]; the error comes with the
            /// name of its field.
            pub fn check(&self, settings: &[Knobs]) -> Result<(), (&'static str, FormulaError)> {
                $(self.$field.check_under(settings).map_err(|error| (stringify!($field), error))?;)*
                self.narrow.as_ref().map_or(Ok(()), |narrow| narrow.check(settings)).map_err(|(_, error)| ("16-bit", error))
            }
        }
    };
}

contract! {
    /// Unit roundoff of the accumulators: `2^-24` for binary32. CUDA guide: `+ - * fma` are correctly rounded.
    u: Formula,
    /// Inexact additions that a product of the dot product passes through. A warp that splits `d` over
    /// 32 lanes and adds them as a tree: `ceil(d/32) + 5`.
    h_qk: Depth,
    /// Roundings of each term of the dot product besides additions, the scale included: 2, or 1 when products are
    /// exact (16-bit inputs). A fused multiply-add saves none: the first one adds its product to zero and rounds it.
    k_qk: Formula,
    /// Relative rounding of each operand before it is multiplied: `2^-10` for TF32 fed raw bits, `2^-11`
    /// after `cvt.rna.tf32`; dequantisation of an 8-bit cache goes here too.
    u_in: Formula,
    /// Roundings proportional to `|s_j|`: a bias added, a product with `log2 e` that is not fused.
    k_s: Formula,
    /// Roundings proportional to the exponential's argument: 1 for `expf(s - m)`, 3.5 for `__expf` and
    /// `exp2f(fma(..))` (subtraction 1; `2 + floor(1.173 |x|)` ulp of `__expf`, or constant and fma).
    k_x: Formula,
    /// Roundings proportional to `max(|s_j|, |M|)`: 1 for `fma(s, c, -fl(m c))` in more than one tile,
    /// 2 more for a log-sum-exp combine.
    k_m: Formula,
    /// Relative error of one exponential, absolute: `5 * 2^-24` for 2 ulp and a rounding (PTX ISA `ex2.approx`).
    e0: Formula,
    /// Absolute error in the logarithmic domain: `2^-21.4 + 8u ln n` for `lg2.approx` in a log-sum-exp combine.
    e_abs: Formula,
    /// Error of one `tanh` at its rounded argument, absolute: `2^-11` for `tanh.approx.f32`. Used with softcap only.
    e_tanh: Formula,
    /// Rescales after an element: tiles minus one. `any` means as many as there are larger logits.
    r: Depth,
    /// Exponentials in the combination of splits or warps: 0 or 1.
    r_comb: Formula,
    /// Additions that a weight passes through in the denominator.
    h_l: Depth,
    /// Additions that a term passes through in the numerator.
    h_pv: Depth,
    /// Roundings of a numerator's term: product 1, combination 2 to 4. At least 1.
    k_pv: Formula,
    /// Format that weights are rounded to before they meet the values.
    p_round: Rounding,
    /// Format that logits are rounded to in memory.
    s_round: Rounding,
    /// Weights are divided by the denominator before they are rounded and meet the values.
    p_norm: bool,
    /// Nothing is divided by the denominator at the end: weights are `exp(s - lse)` of the logits that `lse` was summed
    /// over, or parts are combined by `exp(lse_i - lse)` (FlashAttention's combine kernel). An error of `lse` then scales
    /// the whole row.
    p_lse: bool,
    /// Whether the denominator sums rounded weights.
    p_den: PDen,
    /// Relative error of the final division: `2^-24` IEEE, `4 * 2^-24` through `rcp.approx`,
    /// `5 * 2^-24` for `div.approx` and `div.full`.
    e_div: Formula,
    /// Weights below this, relative to the kernel's maximum, may be dropped. Underflow is added by itself.
    w_cut: Formula,
    /// How far the kernel's maximum may exceed the true one, in nats.
    off: Formula,
    /// How far the kernel's maximum may lag behind the true one, in nats.
    lazy: Formula,
    /// Subnormal numbers may be flushed to zero: `.ftz`, `-use_fast_math`.
    ftz: bool,
    /// The query is multiplied by the scale, or by scale times `log2 e`, before the dot product.
    prescale_lossy: bool,
    /// What a row that sees nothing gives.
    empty_row: EmptyRow,
}

/// Tensor-core accumulation: `width` products and the accumulator are aligned to the largest exponent,
/// cut to `bits` fractional bits, summed, and cut to binary32.
///
/// Volta 4 and 23; Turing 4 or 8, Ampere and Ada 8 and 24; Hopper and Blackwell 16 and 25, for 16-bit
/// inputs (half the width for TF32); FP8 on Ada and Hopper 13 bits. Source: Fasi et al. 2021,
/// Khattak & Mikaitis 2025, MMA-Sim (Xie et al. 2025).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorCore {
    /// Products per block.
    pub width: u32,
    /// Fractional bits kept of an aligned addend.
    pub bits: u32,
}

impl TensorCore {
    /// Relative error of one block, by its sum of absolute values: `width + 1` addends cut, the result cut.
    pub fn block_error(self) -> f64 {
        let (width, bits) = (f64::from(self.width), f64::from(self.bits));
        (width + 1.0) * libm::exp2(-bits) + libm::exp2(-23.0)
    }
}

/// A format that intermediate results are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// They stay in the accumulator's format.
    None,
    /// The format of the tensors.
    Storage,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Rounding {
    /// Unit roundoff and half the subnormal spacing; `storage` is the tensors' type where it is known.
    fn errors(self, storage: Option<Dtype>) -> (f64, f64) {
        let of = |dtype: Dtype| {
            let half_quantum = libm::exp2(f64::from(dtype.min_exponent()) - f64::from(dtype.precision_bits()));
            (dtype.unit_roundoff(), half_quantum)
        };
        match (self, storage) {
            (Self::None, _) | (Self::Storage, Some(Dtype::F32)) => (0.0, 0.0),
            (Self::F16, _) | (Self::Storage, Some(Dtype::F16)) => of(Dtype::F16),
            (Self::Bf16, _) | (Self::Storage, Some(Dtype::Bf16)) => of(Dtype::Bf16),
            (Self::Storage, None) => (of(Dtype::Bf16).0, of(Dtype::F16).1),
        }
    }
}

/// Whether the denominator sums the weights after they were rounded for the numerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PDen {
    /// It sums them unrounded.
    No,
    /// It sums them rounded.
    Yes,
    /// Not known.
    Either,
}

/// What a row that sees nothing gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmptyRow {
    /// Zeros, and a log-sum-exp of minus infinity (FlashAttention).
    Zero,
    /// NaN (a softmax over nothing but minus infinity).
    Nan,
    /// The mean of the masked values (a finite number stands for minus infinity).
    MeanV,
    /// Not to be judged.
    Unchecked,
}

/// A contract's numbers for one row. The fields are those of [`Contract`]; `None` is [`Depth::Any`].
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each field is documented where the contract is")]
pub struct Resolved {
    pub u: f64,
    pub h_qk: Option<f64>,
    pub k_qk: f64,
    pub tc: Option<TensorCore>,
    pub u_in: f64,
    pub k_s: f64,
    pub k_x: f64,
    pub k_m: f64,
    pub e0: f64,
    pub e_abs: f64,
    pub e_tanh: f64,
    pub r: Option<f64>,
    pub r_comb: f64,
    pub h_l: Option<f64>,
    pub h_pv: Option<f64>,
    pub k_pv: f64,
    /// Unit roundoff of the weights' format; 0 if they are not rounded.
    pub u_p: f64,
    /// Half the subnormal spacing of the weights' format.
    pub tau_p: f64,
    pub p_norm: bool,
    pub p_lse: bool,
    pub p_den: PDen,
    pub e_div: f64,
    pub w_cut: f64,
    pub off: f64,
    pub lazy: f64,
    pub ftz: bool,
    pub prescale_lossy: bool,
    pub empty_row: EmptyRow,
}

/// A field of a contract whose numbers can be checked before there is a row.
trait CheckUnder {
    fn check_under(&self, _: &[Knobs]) -> Result<(), FormulaError> {
        Ok(())
    }
}

impl CheckUnder for Formula {
    fn check_under(&self, settings: &[Knobs]) -> Result<(), FormulaError> {
        self.check(settings)
    }
}

impl CheckUnder for Depth {
    fn check_under(&self, settings: &[Knobs]) -> Result<(), FormulaError> {
        match self {
            Self::Any => Ok(()),
            Self::Max(formula) => formula.check(settings),
        }
    }
}

impl CheckUnder for Rounding {}
impl CheckUnder for PDen {}
impl CheckUnder for EmptyRow {}
impl CheckUnder for bool {}

/// There is no preset of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a preset ({expected}), found `{found}`")]
pub struct UnknownPreset {
    /// The name.
    pub found: String,
    /// The names there are.
    pub expected: String,
}

impl Contract {
    /// The contract of a preset; [`Contract::presets`] lists their names.
    pub fn preset(name: &str) -> Result<Self, UnknownPreset> {
        let patch = PRESETS.get(name).ok_or_else(|| UnknownPreset {
            found: name.to_owned(),
            expected: Self::presets().collect::<Vec<_>>().join(", "),
        })?;
        Ok(Self::default().patched(patch))
    }

    /// Names of the presets.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        PRESETS.keys().map(String::as_str)
    }

    /// The numbers for a row of `n` elements and a head dim of `d`, whatever the tensors' type is.
    ///
    /// What depends on that type ([`Rounding::Storage`]) takes the worst of the types, but [`Contract::narrow`] is not
    /// looked at; [`Contract::at_dtype`] is tighter.
    pub fn at(&self, n: usize, d: usize) -> Resolved {
        self.resolve(n, d, &Knobs::new(), None)
    }

    /// The numbers for a row of `n` elements and a head dim of `d`, for tensors of type `storage`.
    pub fn at_dtype(&self, n: usize, d: usize, storage: Dtype) -> Resolved {
        self.resolve(n, d, &Knobs::new(), Some(storage))
    }

    /// The numbers for a row of `n` elements of `case`.
    pub fn at_case(&self, n: usize, case: &Case) -> Resolved {
        self.resolve(n, case.shape.head_dim as usize, &case.knobs, Some(case.dtype))
    }

    fn resolve(&self, n: usize, d: usize, knobs: &Knobs, storage: Option<Dtype>) -> Resolved {
        if let (Some(narrow), Some(Dtype::F16 | Dtype::Bf16)) = (&self.narrow, storage) {
            return narrow.resolve(n, d, knobs, storage);
        }
        let n = n.max(1);
        let eval = |formula: &Formula| formula.eval(n, d, knobs);
        let u = eval(&self.u);
        let (u_p, tau_p) = self.p_round.errors(storage);
        let (u_s, _) = self.s_round.errors(storage);
        let underflow = if self.ftz { -126f64 } else { -149f64 };
        Resolved {
            u,
            h_qk: self.h_qk.at(n, d, knobs),
            k_qk: eval(&self.k_qk),
            tc: self.tc,
            u_in: eval(&self.u_in),
            k_s: eval(&self.k_s) + u_s / u,
            k_x: eval(&self.k_x),
            k_m: eval(&self.k_m),
            e0: eval(&self.e0),
            e_abs: eval(&self.e_abs),
            e_tanh: eval(&self.e_tanh),
            r: self.r.at(n, d, knobs),
            r_comb: eval(&self.r_comb),
            h_l: self.h_l.at(n, d, knobs),
            h_pv: self.h_pv.at(n, d, knobs),
            k_pv: eval(&self.k_pv),
            u_p,
            tau_p,
            p_norm: self.p_norm,
            p_lse: self.p_lse,
            p_den: self.p_den,
            e_div: eval(&self.e_div),
            w_cut: eval(&self.w_cut).max(libm::exp2(underflow)),
            off: eval(&self.off),
            lazy: eval(&self.lazy),
            ftz: self.ftz,
            prescale_lossy: self.prescale_lossy,
            empty_row: self.empty_row,
        }
    }
}

impl Default for Contract {
    /// Nothing is known but that accumulation is binary32: the preset `any`.
    fn default() -> Self {
        PRESETS
            .get("any")
            .and_then(|patch| Self::complete(patch.clone()))
            .unwrap_or_else(|| unreachable!("the preset `any` has every field, please report"))
    }
}

impl TryFrom<Patch> for Contract {
    type Error = UnknownPreset;

    fn try_from(patch: Patch) -> Result<Self, UnknownPreset> {
        let contract = Self::preset(patch.preset.as_deref().unwrap_or("any"))?.patched(&patch);
        let Some(narrow) = &patch.narrow else { return Ok(contract) };
        let base = narrow.preset.as_deref().map_or_else(|| Ok(contract.clone()), Self::preset)?;
        Ok(Self { narrow: Some(Box::new(base.patched(narrow))), ..contract })
    }
}

static PRESETS: LazyLock<BTreeMap<String, Patch>> = LazyLock::new(|| {
    toml::from_str(include_str!("presets.toml"))
        .unwrap_or_else(|error| unreachable!("the presets are well-formed, please report: {error}"))
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_resolves_to_numbers() {
        for name in Contract::presets() {
            let contract = Contract::preset(name).unwrap();
            for (n, d) in [(0, 1), (1, 1), (33, 64), (131_072, 256)] {
                let text = format!("{:?}", contract.at(n, d));
                assert!(!text.contains("NaN") && !text.contains("inf"), "{name}: {text}");
            }
        }
    }

    #[test]
    fn a_contract_survives_toml() {
        for name in Contract::presets() {
            let contract = Contract::preset(name).unwrap();
            let text = toml::to_string(&contract).unwrap();
            assert_eq!(toml::from_str::<Contract>(&text).unwrap(), contract, "{text}");
        }
    }

    #[test]
    fn a_table_overrides_its_preset() {
        let contract: Contract =
            toml::from_str("preset = \"naive\"\nh_pv = \"ceil(n/4) + 4\"\nr = 3\nk_x = 3.5").unwrap();
        let numbers = contract.at(5, 64);
        assert_eq!((numbers.h_pv, numbers.r, numbers.k_x, numbers.k_m), (Some(6.0), Some(3.0), 3.5, 0.0));
        assert_eq!(toml::from_str::<Contract>("").unwrap(), Contract::default());
    }

    #[test]
    fn errors_name_key_found_and_expected() {
        let error = |text: &str| toml::from_str::<Contract>(text).unwrap_err().to_string();
        assert!(
            error("preset = \"fa9\"").contains("expected a preset (any, any-tensor-core,"),
            "{}",
            error("preset = \"fa9\"")
        );
        assert!(error("h_qkk = 3").contains("unknown field `h_qkk`, expected one of"));
        let depth = error("h_qk = \"d + Q\"");
        assert!(depth.contains("h_qk") && depth.contains("found variable `Q`"), "{depth}");
        let contract: Contract = toml::from_str("h_qk = \"d + q\"").unwrap();
        let (field, depth) = contract.check(&[Knobs::new()]).unwrap_err();
        assert!(field == "h_qk" && depth.to_string().contains("found variable `q`"), "{depth}");
        assert!(error("k_x = -1").contains("expected a value of at least 0, found -1"));
    }

    #[test]
    fn sixteen_bit_tensors_may_have_numbers_of_their_own() {
        let text = "preset = \"naive\"\nh_qk = 3\nr = 2\n[16-bit]\nr = 5\ntc = { width = 8, bits = 24 }\n";
        let contract: Contract = toml::from_str(text).unwrap();
        let [wide, f16, bf16] = [Dtype::F32, Dtype::F16, Dtype::Bf16].map(|dtype| contract.at_dtype(9, 64, dtype));
        assert_eq!((wide.r, wide.h_qk, wide.tc), (Some(2.0), Some(3.0), None));
        for narrow in [f16, bf16] {
            assert_eq!((narrow.r, narrow.h_qk), (Some(5.0), Some(3.0)));
            assert_eq!(narrow.tc, Some(TensorCore { width: 8, bits: 24 }));
        }
        assert_eq!(toml::from_str::<Contract>(&toml::to_string(&contract).unwrap()).unwrap(), contract);
        let other: Contract = toml::from_str("preset = \"naive\"\n[16-bit]\npreset = \"fa2\"").unwrap();
        assert_eq!(other.at_dtype(9, 64, Dtype::F16), Contract::preset("fa2").unwrap().at_dtype(9, 64, Dtype::F16));
        let wrong: Contract = toml::from_str("[16-bit]\nr = \"splits - 1\"").unwrap();
        let (field, error) = wrong.check(&[Knobs::new()]).unwrap_err();
        assert!(field == "16-bit" && error.to_string().contains("found variable `splits`"), "{error}");
    }

    #[test]
    fn storage_rounding_is_the_worst_until_the_type_is_known() {
        let contract = Contract::default();
        assert_eq!((contract.at(1, 1).u_p, contract.at(1, 1).tau_p), (2f64.powi(-9) * 2.0, 2f64.powi(-25)));
        assert_eq!(contract.at_dtype(1, 1, Dtype::F32).u_p, 0.0);
        let f16 = contract.at_dtype(1, 1, Dtype::F16);
        assert_eq!((f16.u_p, f16.tau_p), (2f64.powi(-11), 2f64.powi(-25)));
        assert_eq!(contract.at_dtype(1, 1, Dtype::Bf16).tau_p, 2f64.powi(-134));
    }
}
