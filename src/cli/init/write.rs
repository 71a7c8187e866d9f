//! The text of a manifest to be finished.

use super::guess::{self, Element, Kind, Meaning};
use super::{Entry, Found, Parameter};
use crate::float::Dtype;
use std::fmt::Write;

/// What stands where something is left to do. No expression, name or dtype can be that.
pub(in crate::cli) const TODO: &str = "TODO";

/// What is left to do in a manifest: line from 1, and what the line says of it.
pub(in crate::cli) fn todos(text: &str) -> Vec<(usize, String)> {
    let quoted = format!("\"{TODO}\"");
    let is_left = |line: &str| line.split('#').next().is_some_and(|code| code.contains(&quoted));
    let of = |(line, number): (&str, usize)| {
        let comment = line.split_once('#').map_or("finish this line", |(_, comment)| comment.trim());
        (number, comment.trim_start_matches("TODO: ").to_owned())
    };
    text.lines().zip(1..).filter(|(line, _)| is_left(line)).map(of).collect()
}

/// A name that a manifest takes, made of any.
pub(super) fn legal_name(text: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let name: String = text.chars().take(64).map(legal).collect();
    if name.is_empty() { "kernel".into() } else { name }
}

/// An argument, and whether it is a guess.
struct Bound {
    meaning: Option<Meaning>,
    why: &'static str,
}

/// The manifest's text.
pub(super) fn manifest(name: &str, found: &Found) -> String {
    let bound: Vec<Vec<Bound>> = found.entries.iter().map(bind).collect();
    let facts = Facts::of(&found.entries, &bound);
    let mut text = format!(
        "# Made by `attnfuzz init`, {}.\n# What is guessed says so: look at each. Lines with TODO are yours: `attnfuzz check` names those that are left.\n\
         # docs/manifest.md explains every key.\nname = \"{name}\"\nsummary = \"\"\n",
        found.how
    );
    if let Some(source) = &found.source {
        let _ = writeln!(text, "source = \"{source}\"");
    }
    if let Some(ptx) = &found.ptx {
        let _ = writeln!(text, "ptx = \"{ptx}\"");
    }
    if facts.lse {
        text += "lse = { base = \"e\" }          # guessed: \"2\" if the kernel works with log2\n";
    }
    if found.source.is_some() {
        text += "\n[compile]\noptions = [\"-lineinfo\"]\n";
        if found.entries.iter().any(|entry| entry.template.iter().any(is_type)) {
            text += "define.ELEMENT = { f32 = \"float\", f16 = \"__half\", bf16 = \"__nv_bfloat16\" }  # guessed: what a template takes\n";
        }
    }
    facts.domain(&mut text);
    text += "\n# Without [numerics] nothing is assumed of the arithmetic: any order, fast math. The more it says, the sharper the verdict.\n";
    if found.entries.len() > 1 {
        text += "\n# A step runs these in this order: drop those that it doesn't run.\n";
    }
    for (entry, bound) in found.entries.iter().zip(&bound) {
        launch(&mut text, entry, bound);
    }
    text
}

/// What each parameter is, by its name, else by its place among pointers of elements.
fn bind(entry: &Entry) -> Vec<Bound> {
    let by_name = |p: &Parameter| {
        let meaning = p.name.as_deref().and_then(|name| guess::meaning(name, p.kind));
        Bound { meaning, why: "guessed from the name" }
    };
    let mut bound: Vec<Bound> = entry.params.iter().map(by_name).collect();
    if entry.params.iter().any(|p| p.name.is_some()) {
        return bound;
    }
    let elements = |p: &Parameter, wanted: bool| match p.kind {
        Kind::Pointer { element: Some(Element::F32 | Element::F16 | Element::Bf16), is_const } => is_const == wanted,
        _ => false,
    };
    let places = |wanted: bool| (0..entry.params.len()).filter(move |&i| elements(&entry.params[i], wanted));
    let (read, written): (Vec<usize>, Vec<usize>) = (places(true).collect(), places(false).collect());
    if let ([q, k, v], [out]) = (&read[..], &written[..]) {
        for (place, tensor) in [(*q, "q"), (*k, "k_cache"), (*v, "v_cache"), (*out, "out")] {
            bound[place] = Bound { meaning: Some(Meaning::Tensor(tensor)), why: "guessed from the order" };
        }
    }
    let fractions: Vec<usize> =
        (0..entry.params.len()).filter(|&i| entry.params[i].kind == Kind::Number("f32")).collect();
    if let [only] = fractions[..] {
        bound[only] = Bound { meaning: Some(Meaning::Value("scale")), why: "guessed: the only number with a fraction" };
    }
    bound
}

fn launch(text: &mut String, entry: &Entry, bound: &[Bound]) {
    text.push_str("\n[[launch]]\n");
    let _ = match (&entry.template[..], entry.name.as_str()) {
        ([], TODO) => writeln!(text, "entry = \"{TODO}\"  # TODO: the name that a macro gives `{}`", entry.shown),
        ([], name)
            if !entry.dtypes.is_empty() || entry.shown == name || entry.shown.starts_with(&format!("{name}(")) =>
        {
            writeln!(text, "entry = \"{name}\"")
        }
        ([], name) => writeln!(text, "entry = \"{name}\"  # {}", entry.shown),
        (params, name) => template(text, name, params),
    };
    let axes = entry.block_indices.as_ref().map(|axes| {
        axes.each_ref().map(|names| match &names[..] {
            [] => Ok("1"),
            names => names.iter().find_map(|name| guess::axis(name)).ok_or(names),
        })
    });
    match axes {
        Some([Ok(x), Ok(y), Ok(z)]) => {
            let _ = writeln!(text, "grid = [\"{x}\", \"{y}\", \"{z}\"]  # guessed from what blockIdx is put into");
        }
        Some(axes) => {
            let dims = axes.map(|axis| axis.unwrap_or(TODO));
            let _ = writeln!(
                text,
                "grid = [\"{}\", \"{}\", \"{}\"]  # TODO: blocks along x, y, z, such as \"num_q_heads\", \"batch\", \"1\"",
                dims[0], dims[1], dims[2]
            );
        }
        None => {
            let _ = writeln!(
                text,
                "grid = [\"{TODO}\", \"1\", \"1\"]  # TODO: blocks along x, y, z, such as \"num_q_heads\", \"batch\", \"1\""
            );
        }
    }
    match &entry.block {
        Some((threads, by)) => {
            let _ = writeln!(text, "block = [\"{threads}\", \"1\", \"1\"]  # guessed from {by}");
        }
        None => {
            let _ = writeln!(text, "block = [\"{TODO}\", \"1\", \"1\"]  # TODO: threads of a block");
        }
    }
    if entry.has_dynamic_shared {
        let _ = writeln!(text, "shared_bytes = \"{TODO}\"  # TODO: bytes of its `extern __shared__` memory");
    }
    text.push_str("args = [\n");
    for (number, (param, bound)) in entry.params.iter().zip(bound).enumerate() {
        let what = match &param.name {
            Some(name) => format!("`{name}` ({})", param.ty),
            None => param.ty.clone(),
        };
        let _ = match bound.meaning {
            Some(meaning) => writeln!(text, "    {},  # {}: {what}", argument(meaning, param.kind), bound.why),
            None => {
                writeln!(text, "    {},  # TODO: parameter {number}, {what}{}", unbound(param.kind), hint(param.kind))
            }
        };
    }
    text.push_str("]\n");
}

/// The entry of a template's instance, each parameter guessed from its name.
fn template(text: &mut String, name: &str, params: &[(String, Option<String>)]) -> std::fmt::Result {
    let argument = |param: &(String, Option<String>)| match param {
        param if is_type(param) => Some("{ELEMENT}".to_owned()),
        (ty, Some(name)) => match guess::meaning(name, Kind::of_type(ty))? {
            Meaning::Value(expression) => Some(format!("{{{expression}}}")),
            _ => None,
        },
        _ => None,
    };
    let said = params
        .iter()
        .map(|(ty, name)| format!("{ty} {}", name.as_deref().unwrap_or("_")))
        .collect::<Vec<_>>()
        .join(", ");
    match params.iter().map(argument).collect::<Option<Vec<_>>>() {
        Some(arguments) => {
            writeln!(text, "entry = \"{name}<{}>\"  # guessed from the names: template <{said}>", arguments.join(", "))
        }
        None => writeln!(
            text,
            "entry = \"{TODO}\"  # TODO: an instance of {name}, template <{said}>, such as `{name}<{{head_dim}}>`"
        ),
    }
}

/// Whether a template's parameter is a type.
fn is_type((ty, _): &(String, Option<String>)) -> bool {
    ty == "typename" || ty == "class"
}

fn argument(meaning: Meaning, kind: Kind) -> String {
    match meaning {
        Meaning::Tensor(name) => format!("{{ tensor = \"{name}\" }}"),
        Meaning::Lengths(name) => format!("{{ lengths = \"{name}\" }}"),
        Meaning::BlockTable => "{ block_table = \"padded\" }".into(),
        Meaning::Value(expression) => {
            let scalar = if let Kind::Number(scalar) = kind { scalar } else { "i32" };
            format!("{{ value = \"{expression}\", type = \"{scalar}\" }}")
        }
    }
}

fn unbound(kind: Kind) -> String {
    match kind {
        Kind::Number(scalar) => format!("{{ value = \"{TODO}\", type = \"{scalar}\" }}"),
        Kind::Pointer { .. } => format!("{{ tensor = \"{TODO}\" }}"),
        Kind::Bytes(_) | Kind::Unknown => format!("{{ struct = [{{ tensor = \"{TODO}\" }}] }}"),
    }
}

/// What an argument may be besides what stands there.
fn hint(kind: Kind) -> &'static str {
    match kind {
        Kind::Bytes(_) | Kind::Unknown => ": its fields in order, as arguments are",
        Kind::Pointer { element: None, .. } => ": an address, or { value = ..., type = \"i64\" }",
        _ => "",
    }
}

/// What arguments say of the cases that the kernel takes.
struct Facts {
    dtypes: Vec<Dtype>,
    lse: bool,
    sinks: bool,
    paged: bool,
    append: bool,
    /// A length for each request.
    ragged: bool,
    batch: bool,
    several_queries: bool,
    scale: bool,
    strides: bool,
    v_head_dim: bool,
    window: bool,
    softcap: bool,
    causal: bool,
}

impl Facts {
    fn of(entries: &[Entry], bound: &[Vec<Bound>]) -> Self {
        let has = |wanted: &dyn Fn(Meaning) -> bool| bound.iter().flatten().filter_map(|b| b.meaning).any(wanted);
        let value = |text: &'static str| has(&move |m| matches!(m, Meaning::Value(v) if v.contains(text)));
        let params = entries.iter().flat_map(|e| &e.params).zip(bound.iter().flatten());
        let q = params.into_iter().find(|(_, b)| b.meaning == Some(Meaning::Tensor("q"))).map(|(p, _)| p.kind);
        let of_names: Vec<Dtype> = entries.iter().flat_map(|entry| entry.dtypes.iter().copied()).collect();
        let of_type = entries.iter().any(|entry| entry.template.iter().any(is_type));
        let dtypes = match q {
            _ if of_type => Dtype::ALL.to_vec(),
            _ if !of_names.is_empty() => Dtype::ALL.into_iter().filter(|dtype| of_names.contains(dtype)).collect(),
            Some(Kind::Pointer { element: Some(Element::F32), .. }) => vec![Dtype::F32],
            Some(Kind::Pointer { element: Some(Element::F16), .. }) => vec![Dtype::F16],
            Some(Kind::Pointer { element: Some(Element::Bf16), .. }) => vec![Dtype::Bf16],
            _ => Vec::new(),
        };
        let ragged = has(&|m| matches!(m, Meaning::Lengths(_)));
        Self {
            dtypes,
            lse: has(&|m| m == Meaning::Tensor("lse")),
            sinks: has(&|m| m == Meaning::Tensor("sinks")),
            paged: has(&|m| m == Meaning::BlockTable),
            append: has(&|m| m == Meaning::Tensor("k_new")),
            ragged,
            batch: ragged || value("batch") || value("stride_request"),
            several_queries: has(&|m| matches!(m, Meaning::Lengths("q_len" | "cu_q_len"))) || value("q_len"),
            scale: has(&|m| matches!(m, Meaning::Value(v) if v.starts_with("scale"))),
            strides: value("stride_head") && value("stride_token"),
            v_head_dim: value("v_head_dim"),
            window: value("window"),
            softcap: value("softcap"),
            causal: value("causal"),
        }
    }

    fn domain(&self, text: &mut String) {
        text.push_str(
            "\n# The cases that the kernel claims to support: it is asked about all of them and no others.\n[domain]\n",
        );
        let mut line = |entry: String, comment: &str| {
            let _ =
                if comment.is_empty() { writeln!(text, "{entry}") } else { writeln!(text, "{entry:<28}  # {comment}") };
        };
        let dtypes: Vec<String> = self.dtypes.iter().map(|dtype| format!("\"{dtype}\"")).collect();
        match &dtypes[..] {
            [] => line(format!("dtype = [\"{TODO}\"]"), "TODO: type of the elements: f32, f16 or bf16"),
            [one] => line(format!("dtype = [{one}]"), "guessed from the type of q"),
            several => line(format!("dtype = [{}]", several.join(", ")), "guessed from the kernels' names or template"),
        }
        line("num_kv_heads = \"1..=8\"".into(), "assumed");
        line("q_per_kv = \"1..=8\"".into(), "assumed: query heads of a KV head");
        line("head_dim = [64, 128]".into(), "assumed");
        if self.v_head_dim {
            line("v_head_dim = [64, 128]".into(), "assumed");
        }
        match (self.batch, self.ragged) {
            (true, true) => line("batch = \"1..=8\"".into(), "assumed"),
            (true, false) => {
                line("batch = 1".into(), "assumed: it has no array of lengths, and requests differ in theirs")
            }
            (false, _) => line("batch = 1".into(), "assumed: no parameter counts requests"),
        }
        let q_len = if self.several_queries { "q_len = \"1..=16\"" } else { "q_len = 1" };
        line(q_len.into(), "assumed: new tokens of a request in a step");
        let past_len = if self.append { "past_len = \"0..=512\"" } else { "past_len = \"1..=512\"" };
        line(past_len.into(), "assumed: tokens in the cache");
        line("steps = 1".into(), "");
        if self.strides {
            line("cache = [\"hnd\", \"nhd\"]".into(), "it takes strides");
        } else {
            line(
                "cache = [\"hnd\"]".into(),
                "assumed: [request, head, token, dim] in memory; nhd: [request, token, head, dim]",
            );
        }
        line("row_pad = 0".into(), "");
        if !self.append {
            line("append = false".into(), "guessed: it takes no new keys, so that they are in the cache already");
        }
        if !self.scale {
            line("any_scale = false".into(), "guessed: no parameter is a scale, so that it is 1/sqrt(head_dim)");
        }
        if self.paged {
            line("storage = [\"paged\"]".into(), "guessed: it takes a block table");
            line("page_size = [16, 64]".into(), "assumed");
        }
        if self.causal {
            line("causal = [true, false]".into(), "guessed: it takes a parameter for it");
        }
        if self.window {
            line("window = \"1..=256\"".into(), "guessed: it takes one");
        }
        if self.softcap {
            line("softcap = true".into(), "guessed: it takes one");
        }
        if self.sinks {
            line("sinks = true".into(), "guessed: it takes some");
        }
    }
}
