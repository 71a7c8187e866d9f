//! Guards, branches, barriers, comparisons.

use super::Edits;
use crate::ptx::{Instruction, Operand};

/// Relations and what is as near as one value: with and without equality, ordered and unordered alike.
const RELATIONS: [(&str, &str); 20] = [
    ("lt", "le"),
    ("le", "lt"),
    ("gt", "ge"),
    ("ge", "gt"),
    ("eq", "ne"),
    ("ne", "eq"),
    ("lo", "ls"),
    ("ls", "lo"),
    ("hi", "hs"),
    ("hs", "hi"),
    ("ltu", "leu"),
    ("leu", "ltu"),
    ("gtu", "geu"),
    ("geu", "gtu"),
    ("equ", "neu"),
    ("neu", "equ"),
    ("num", "nan"),
    ("nan", "num"),
    ("andp", "orp"),
    ("orp", "andp"),
];

pub(super) fn edits(edits: &mut Edits<'_>) {
    guards(edits);
    let has_result = edits.has("red");
    match edits.opcode() {
        "bar" | "barrier" if !has_result => edits.push("drop-barrier", "", ""),
        "membar" | "fence" => edits.push("drop-fence", "", ""),
        "cp" if edits.has("wait_group") || edits.has("wait_all") => edits.push("drop-fence", "", ""),
        "setp" | "set" => comparison(edits),
        "vote" => {
            if let Some(mode) = edits.modifier(&["any", "all"]) {
                let other = if mode == "any" { "all" } else { "any" };
                edits.push("vote", "", edits.with_modifier(mode, other));
            }
        }
        _ => {}
    }
}

fn guards(edits: &mut Edits<'_>) {
    let Some((name, negated)) = edits.instruction.guard.clone() else {
        return;
    };
    let instruction = edits.instruction.clone();
    edits.push_guard("negate-guard", Instruction { guard: Some((name, !negated)), ..instruction.clone() });
    edits.push_guard("drop-guard", Instruction { guard: None, ..instruction });
    if edits.opcode() == "bra" {
        edits.push_guard("drop-branch", "");
    }
}

fn comparison(edits: &mut Edits<'_>) {
    let relation = RELATIONS.iter().find(|(from, _)| edits.instruction.modifiers.first().is_some_and(|m| m == from));
    let Some((from, to)) = relation else {
        return;
    };
    edits.push("relation", format!("{from}-{to}"), edits.with_modifier(from, to));
    let Some(Operand::Name(bound)) = edits.operands().get(2) else {
        return;
    };
    let ty = edits.ty();
    if edits.is_integer() && matches!(ty, "s32" | "u32" | "s64" | "u64") && !matches!(*from, "eq" | "ne") {
        let compare = edits.with_operand(2, Operand::Name("%mutant".into()));
        let text = format!("{{ .reg .{ty} %mutant; sub.{ty} %mutant, {bound}, 1; {compare} }}");
        edits.push("bound", "less-one", text);
    }
}
