//! Arithmetic, logic, conversions, constants.

use super::Edits;
use crate::ptx::{Instruction, Operand};

pub(super) fn edits(edits: &mut Edits<'_>) {
    constants(edits);
    narrow(edits);
    accumulation(edits);
    let is_carry = edits.has("cc");
    match edits.opcode() {
        "add" if !is_carry && !adds_zero(edits) => edits.push("add-sub", "", edits.with_opcode("sub")),
        "sub" if !is_carry => {
            edits.push("add-sub", "", edits.with_opcode("add"));
            edits.push("swap", "", edits.swapped(1, 2));
        }
        "div" | "rem" => edits.push("swap", "", edits.swapped(1, 2)),
        "mul" if !edits.has("wide") && !edits.has("hi") => {
            let add = Instruction { opcode: "add".into(), ..edits.with_modifier("lo", "") };
            edits.push("mul-add", "", add);
        }
        "fma" | "mad" if !is_carry && edits.operands().len() == 4 => {
            let mut mul = edits.with_opcode("mul");
            mul.operands.pop();
            edits.push("fma-mul", "", mul);
        }
        "min" => edits.push("min-max", "", edits.with_opcode("max")),
        "max" => edits.push("min-max", "", edits.with_opcode("min")),
        "and" => edits.push("and-or", "", edits.with_opcode("or")),
        "or" | "xor" => edits.push("and-or", "", edits.with_opcode("and")),
        "shl" => {
            let right = Instruction { opcode: "shr".into(), ..edits.with_modifier(edits.ty(), &unsigned(edits.ty())) };
            edits.push("shift", "", right);
        }
        "shr" => {
            let left = Instruction {
                opcode: "shl".into(),
                ..edits.with_modifier(edits.ty(), &format!("b{}", bits(edits.ty())))
            };
            edits.push("shift", "", left);
        }
        "neg" | "abs" | "not" => {
            let ty = edits.ty();
            let moved = if ty.starts_with('f') && bits(ty) >= 32 { ty.to_owned() } else { format!("b{}", bits(ty)) };
            let mov = Instruction {
                opcode: "mov".into(),
                modifiers: vec![if ty == "pred" { ty.to_owned() } else { moved }],
                ..edits.instruction.clone()
            };
            edits.push("sign", "left-out", mov);
        }
        "ex2" | "lg2" | "rcp" | "rsqrt" | "sqrt" | "sin" | "cos" | "tanh" if edits.operands().len() == 2 => {
            let ty = edits.ty();
            let call = edits.with_operand(1, Operand::Name("%mutant".into()));
            let source = &edits.operands()[1];
            edits.push("sign", "argument", format!("{{ .reg .{ty} %mutant; neg.{ty} %mutant, {source}; {call} }}"));
        }
        "selp" => edits.push("select", "", edits.swapped(1, 2)),
        "cvt" => rounding(edits),
        _ => {}
    }
}

/// The width in bits of a type such as `s32`; that of one element of a packed one is meant, so 0 for those.
fn bits(ty: &str) -> u32 {
    ty.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse().unwrap_or(0)
}

fn unsigned(ty: &str) -> String {
    format!("u{}", bits(ty))
}

fn adds_zero(edits: &Edits<'_>) -> bool {
    edits.operands()[1..].iter().any(|operand| matches!(operand, Operand::Int(0)))
}

/// Immediates, one at a time.
fn constants(edits: &mut Edits<'_>) {
    let opcode = edits.opcode();
    let counted = matches!(
        opcode,
        "add"
            | "sub"
            | "mul"
            | "mad"
            | "div"
            | "rem"
            | "min"
            | "max"
            | "and"
            | "or"
            | "xor"
            | "shl"
            | "shr"
            | "setp"
            | "set"
            | "selp"
            | "mov"
            | "mad24"
            | "mul24"
            | "bfe"
            | "bfi"
    );
    let computed = counted || matches!(opcode, "fma" | "slct" | "abs" | "neg");
    for (index, operand) in edits.operands().iter().enumerate().skip(1).filter(|_| computed) {
        let place = if edits.operands().len() > 3 { format!("{index}-") } else { String::new() };
        let mut push = |operator, what: &str, operand| {
            edits.push(operator, format!("{place}{what}"), edits.with_operand(index, operand));
        };
        match *operand {
            Operand::Int(n) if counted => {
                push("constant", "more", Operand::Int(n.wrapping_add(1)));
                push("constant", "less", Operand::Int(n.wrapping_sub(1)));
            }
            Operand::F32(x) => {
                for (what, y) in float_changes(f64::from(f32::from_bits(x)), f64::from(f32::MAX)) {
                    push("float-constant", what, Operand::F32((y as f32).to_bits()));
                }
            }
            Operand::F64(x) => {
                for (what, y) in float_changes(f64::from_bits(x), f64::MAX) {
                    push("float-constant", what, Operand::F64(y.to_bits()));
                }
            }
            _ => {}
        }
    }
}

fn float_changes(x: f64, largest: f64) -> Vec<(&'static str, f64)> {
    if x == 0.0 {
        vec![("one", 1.0)]
    } else if x.is_infinite() {
        vec![("finite", largest.copysign(x)), ("negated", -x)]
    } else {
        vec![("doubled", 2.0 * x), ("negated", -x)]
    }
}

/// What an author gets who computes an index in 32 bits. Products only: where they fit, so do the sums, but for pointers,
/// which never do.
fn narrow(edits: &mut Edits<'_>) {
    let guard = edits.guard_text();
    let wide = edits.has("wide").then(|| edits.ty());
    match (edits.opcode(), wide) {
        ("mul", Some(ty @ ("s32" | "u32"))) => {
            let d = &edits.operands()[0];
            let mut low = edits.with_modifier("wide", "lo");
            low.operands[0] = Operand::Name("%mutant".into());
            let wider = ty.replace("32", "64");
            let text = format!("{{ .reg .{ty} %mutant; {low} {guard}cvt.{wider}.{ty} {d}, %mutant; }}");
            edits.push("narrow", "", text);
        }
        ("mul" | "mad" | "shl", None) if matches!(edits.ty(), "s64" | "u64" | "b64") => {
            let d = &edits.operands()[0];
            let sign = if edits.ty() == "u64" { 'u' } else { 's' };
            let instruction = edits.instruction;
            let text = format!(
                "{{ .reg .b32 %mutant; {instruction} {guard}cvt.u32.u64 %mutant, {d}; {guard}cvt.{sign}64.{sign}32 {d}, %mutant; }}"
            );
            edits.push("narrow", "", text);
        }
        _ => {}
    }
}

/// Instructions whose result without them is what the destination held: sums, running maxima, moves.
fn accumulation(edits: &mut Edits<'_>) {
    let [destination @ Operand::Name(_), sources @ ..] = edits.operands() else {
        return;
    };
    let accumulates =
        matches!(edits.opcode(), "add" | "sub" | "mul" | "fma" | "mad" | "min" | "max" | "selp" | "or" | "and")
            && sources.contains(destination);
    let moves = edits.opcode() == "mov"
        && matches!(sources, [Operand::Name(name)] if name.starts_with('%') && !name.contains('.'))
        && matches!(destination, Operand::Name(_));
    if accumulates || moves {
        edits.push("drop", "", "");
    }
}

fn rounding(edits: &mut Edits<'_>) {
    const OTHER: [(&str, &str); 8] = [
        ("rn", "rz"),
        ("rz", "rn"),
        ("rm", "rp"),
        ("rp", "rm"),
        ("rni", "rzi"),
        ("rzi", "rni"),
        ("rmi", "rpi"),
        ("rpi", "rmi"),
    ];
    if let Some((from, to)) = OTHER.iter().find(|(from, _)| edits.has(from)) {
        edits.push("rounding", format!("{from}-{to}"), edits.with_modifier(from, to));
    }
}
