//! A form of an instruction, and the PTX kernel that applies it to one case per thread.

use super::expand::expand;
use super::seldom;
use super::table::{EVEN_LANES, FAMILIES};

/// Threads of a block of every kernel; the number of cases is a multiple of it.
pub(crate) const BLOCK: usize = 128;
/// What the output buffer holds before a launch.
pub(crate) const FILL: u8 = 0xee;
/// Name of every kernel.
pub(crate) const ENTRY: &str = "form";

/// What the bits of an operand mean, for choosing values and registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    I16,
    I32,
    I64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
    F32,
    F64,
    Pred,
    /// A shift amount: around the widths.
    Shift,
    /// A position or length of a bit field: only its low byte counts.
    Bit,
    /// Few different values, for `match`.
    Few,
    /// A lane number.
    Lane,
    /// `c` of a shuffle: clamp and segment mask.
    Clamp,
    /// Four 8-bit floats, seldom anything but numbers.
    Eight,
}

impl Kind {
    fn named(name: &str) -> Self {
        match name {
            "u8" | "s8" | "b8" | "u16" | "s16" | "b16" | "e4m3x2" | "e5m2x2" => Self::I16,
            "u32" | "s32" | "b32" | "u16x2" | "s16x2" => Self::I32,
            "u64" | "s64" | "b64" => Self::I64,
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "f16x2" => Self::F16x2,
            "bf16x2" => Self::Bf16x2,
            "f32" | "tf32" => Self::F32,
            "f64" => Self::F64,
            "pred" => Self::Pred,
            "shift" => Self::Shift,
            "bit" => Self::Bit,
            "few" => Self::Few,
            "lane" => Self::Lane,
            "clamp" => Self::Clamp,
            "eight" => Self::Eight,
            _ => panic!("the table names the kind {name}"),
        }
    }

    /// Width of the register that holds it; a predicate is loaded and stored through 32 bits.
    pub(crate) fn bits(self) -> u32 {
        match self {
            Self::I16 | Self::F16 | Self::Bf16 => 16,
            Self::I64 | Self::F64 => 64,
            _ => 32,
        }
    }
}

/// How results are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Every bit is defined.
    Exact,
    /// The manual gives an error bound.
    Approximate,
    /// A tensor-core product: every bit is reported, none is promised by the manual.
    Tensor,
}

/// One form: an instruction with its modifiers and the kinds of its operands.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// The instruction, with its operands where they are unusual. Unique.
    pub(crate) name: String,
    /// Kinds of `%a0`, `%a1`, ...
    pub(crate) inputs: Vec<Kind>,
    /// Kinds of `%d0`, `%d1`, ...
    pub(crate) outputs: Vec<Kind>,
    /// The lowest architecture that has it.
    pub(crate) arch: u32,
    body: String,
}

/// Every form of the table.
pub(crate) fn forms() -> Vec<Form> {
    FAMILIES
        .iter()
        .chain(seldom::FAMILIES)
        .flat_map(|(arch, pattern, signature)| family(*arch, pattern, signature))
        .collect()
}

fn family(arch: u32, pattern: &str, signature: &str) -> Vec<Form> {
    expand(pattern)
        .into_iter()
        .map(|text| {
            let opcode = text.split_whitespace().next().unwrap_or("").to_owned();
            let types: Vec<&str> = opcode.split('.').filter(|m| is_type(m)).collect();
            let kind = |token: &str| {
                let nth = |back: usize| types[types.len() - back];
                Kind::named(match token {
                    "T" => nth(1),
                    "D" => nth(2),
                    "W" => match nth(1) {
                        "u16" | "s16" => "u32",
                        _ => "u64",
                    },
                    other => other,
                })
            };
            let (outputs, inputs) = signature.split_once('=').expect("a signature has an equals sign");
            let outputs: Vec<Kind> = outputs.split_whitespace().map(kind).collect();
            let inputs: Vec<Kind> = inputs.split_whitespace().map(kind).collect();
            let text = seldom::SHORTHANDS.iter().fold(text, |text, (short, long)| text.replace(short, long));
            let (name, body) = match text.split_once(" := ") {
                Some((name, body)) => {
                    (name.to_owned(), body.replace("EVEN_LANES", EVEN_LANES).replace("OPCODE", &opcode))
                }
                None if text.contains('%') => (text.clone(), text),
                None => {
                    let body = plain_body(&text, outputs.len(), &inputs);
                    (text, body)
                }
            };
            Form { name, inputs, outputs, arch, body }
        })
        .collect()
}

/// An instruction with its operands in order; an atomic operation with the cell it works on.
fn plain_body(opcode: &str, outputs: usize, inputs: &[Kind]) -> String {
    let numbered = |prefix: char, range: std::ops::Range<usize>| range.map(move |i| format!("%{prefix}{i}"));
    let Some(rest) = opcode.strip_prefix("atom.").or(opcode.strip_prefix("red.")) else {
        let registers: Vec<String> = numbered('d', 0..outputs).chain(numbered('a', 0..inputs.len())).collect();
        return format!("{opcode} {};", registers.join(", "));
    };
    let bits = inputs[0].bits();
    let operands: Vec<String> = numbered('a', 1..inputs.len()).collect();
    let operands = operands.join(", ");
    let (space, cell, setup) = if rest.starts_with("shared") {
        let setup =
            ".shared .align 8 .b8 cells[1024]; mov.u32 %n, cells; mov.u32 %t, %tid.x; mad.lo.u32 %t, %t, 8, %n; ";
        ("shared", "[%t]", setup)
    } else {
        // A generic address is the global one.
        ("global", "[%pout+24]", "")
    };
    let operation = if opcode.starts_with("red.") {
        format!("mov.b{bits} %d0, %a0; {opcode} {cell}, {operands};")
    } else {
        format!("{opcode} %d0, {cell}, {operands};")
    };
    format!("{setup}st.{space}.b{bits} {cell}, %a0; {operation} ld.{space}.b{bits} %d1, {cell};")
}

fn is_type(modifier: &str) -> bool {
    const OTHERS: [&str; 10] = ["f16", "bf16", "f16x2", "bf16x2", "f32", "f64", "tf32", "pred", "e4m3x2", "e5m2x2"];
    let integer = modifier.strip_prefix(['u', 's', 'b']);
    integer.is_some_and(|w| ["8", "16", "32", "64", "16x2"].contains(&w)) || OTHERS.contains(&modifier)
}

impl Form {
    /// How results are compared.
    pub(crate) fn class(&self) -> Class {
        if self.name.starts_with("mma") && ![".s32", ".f64"].into_iter().any(|sums| self.name.contains(sums)) {
            Class::Tensor
        } else if self.name.contains(".approx") || self.name.contains(".full") {
            Class::Approximate
        } else {
            Class::Exact
        }
    }

    /// Bytes of one case's inputs; `%pin` is their address, aligned to as many.
    pub(crate) fn input_stride(&self) -> usize {
        self.inputs.len().next_power_of_two().max(4) * 8
    }

    /// Bytes of one case's outputs; `%pout` is their address. Bodies may use what the results don't.
    pub(crate) fn output_stride(&self) -> usize {
        self.outputs.len().next_power_of_two().max(4) * 8
    }

    /// The kernel: thread `i` loads case `i`, applies the form, stores the results, 8 bytes apart.
    pub(crate) fn ptx(&self) -> String {
        let mut text = format!(
            ".version 8.4\n.target sm_{}\n.address_size 64\n\n\
             .visible .entry {ENTRY}(.param .u64 input, .param .u64 output)\n{{\n\
             \t.reg .b64 %pin, %pout;\n\t.reg .b32 %i, %n, %t;\n",
            self.arch
        );
        let mut line = |code: String| {
            text.push('\t');
            text.push_str(&code);
            text.push('\n');
        };
        for (prefix, kinds) in [("a", &self.inputs), ("d", &self.outputs)] {
            for (index, kind) in kinds.iter().enumerate() {
                let ty = if *kind == Kind::Pred { "pred".to_owned() } else { format!("b{}", kind.bits()) };
                line(format!(".reg .{ty} %{prefix}{index};"));
            }
        }
        for code in [
            "ld.param.u64 %pin, [input];",
            "ld.param.u64 %pout, [output];",
            "cvta.to.global.u64 %pin, %pin;",
            "cvta.to.global.u64 %pout, %pout;",
            "mov.u32 %i, %ctaid.x;",
            "mov.u32 %n, %ntid.x;",
            "mov.u32 %t, %tid.x;",
            "mad.lo.u32 %i, %i, %n, %t;",
        ] {
            line(code.to_owned());
        }
        line(format!("mad.wide.u32 %pin, %i, {}, %pin;", self.input_stride()));
        line(format!("mad.wide.u32 %pout, %i, {}, %pout;", self.output_stride()));
        for (index, kind) in self.inputs.iter().enumerate() {
            let at = index * 8;
            if *kind == Kind::Pred {
                line(format!("ld.global.b32 %t, [%pin+{at}];"));
                line(format!("setp.ne.u32 %a{index}, %t, 0;"));
            } else {
                line(format!("ld.global.b{} %a{index}, [%pin+{at}];", kind.bits()));
            }
        }
        line(self.body.clone());
        for (index, kind) in self.outputs.iter().enumerate() {
            let at = index * 8;
            if *kind == Kind::Pred {
                line(format!("selp.u32 %t, 1, 0, %d{index};"));
                line(format!("st.global.b32 [%pout+{at}], %t;"));
            } else {
                line(format!("st.global.b{} [%pout+{at}], %d{index};", kind.bits()));
            }
        }
        text.push_str("\tret;\n}\n");
        text
    }

    /// The input buffer of `cases`.
    pub(crate) fn pack(&self, cases: &[Vec<u64>]) -> Vec<u8> {
        let mut bytes = vec![0; cases.len() * self.input_stride()];
        for (case, place) in cases.iter().zip(bytes.chunks_mut(self.input_stride())) {
            for (value, slot) in case.iter().zip(place.chunks_mut(8)) {
                slot.copy_from_slice(&value.to_le_bytes());
            }
        }
        bytes
    }

    /// The results of each case in an output buffer.
    pub(crate) fn unpack(&self, bytes: &[u8]) -> Vec<Vec<u64>> {
        let value = |(slot, kind): (&[u8], &Kind)| {
            let raw = u64::from_le_bytes(std::array::from_fn(|i| slot[i]));
            if kind.bits() == 64 { raw } else { raw & ((1 << kind.bits()) - 1) }
        };
        let case = |place: &[u8]| place.chunks(8).zip(&self.outputs).map(value).collect();
        bytes.chunks(self.output_stride()).map(case).collect()
    }
}
