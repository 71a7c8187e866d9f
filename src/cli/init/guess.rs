//! What a parameter is likely to be, by its name and its type.

use crate::ptx::Type;

/// A parameter's type, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An address of elements of this type, if that is known.
    Pointer { element: Option<Element>, is_const: bool },
    /// A number of a type that manifests have, by its name there.
    Number(&'static str),
    /// So many bytes: a struct.
    Bytes(usize),
    /// A type that only the source knows.
    Unknown,
}

/// What a pointer points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
    I32,
    Other,
}

impl Kind {
    /// Of a type as C++ or a demangler writes it.
    pub(super) fn of_type(text: &str) -> Self {
        let is_pointer = text.contains('*');
        // A struct of floats is no float.
        let text = text.split('<').next().unwrap_or(text);
        let has = |word: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word);
        if is_pointer {
            let element = match () {
                () if has("float") => Some(Element::F32),
                () if has("half") || has("__half") || has("half_t") => Some(Element::F16),
                () if has("__nv_bfloat16") || has("nv_bfloat16") || has("bfloat16_t") => Some(Element::Bf16),
                () if ["double", "char", "long", "short", "int64_t", "uint8_t", "int8_t"].into_iter().any(has) => {
                    Some(Element::Other)
                }
                () if ["int", "int32_t", "unsigned", "uint32_t"].into_iter().any(has) => Some(Element::I32),
                () => None,
            };
            return Self::Pointer { element, is_const: has("const") };
        }
        let is_unsigned = has("unsigned") || text.trim_start_matches("const ").starts_with('u');
        match () {
            () if has("float") => Self::Number("f32"),
            () if has("bool") => Self::Number("bool"),
            () if has("char") || has("int8_t") || has("uint8_t") => Self::Number(if is_unsigned { "u8" } else { "i8" }),
            () if has("short") || has("int16_t") || has("uint16_t") => {
                Self::Number(if is_unsigned { "u16" } else { "i16" })
            }
            () if has("double") => Self::Number("f64"),
            () if has("size_t") || has("uint64_t") || has("long") && is_unsigned => Self::Number("u64"),
            () if has("long") || has("int64_t") || has("ptrdiff_t") => Self::Number("i64"),
            () if has("uint32_t") || has("uint") || has("unsigned") => Self::Number("u32"),
            () if has("int") || has("int32_t") => Self::Number("i32"),
            () => Self::Unknown,
        }
    }

    /// Of a PTX parameter.
    pub(super) fn of_param(ty: Type, size_bytes: usize) -> Self {
        match ty {
            _ if size_bytes != ty.size_bytes() => Self::Bytes(size_bytes),
            Type::F32 => Self::Number("f32"),
            Type::F64 => Self::Number("f64"),
            // PTX of compilers has no other word for an address.
            Type::U64 | Type::B64 => Self::Pointer { element: None, is_const: false },
            Type::S64 => Self::Number("i64"),
            Type::U32 | Type::B32 | Type::S32 => Self::Number("i32"),
            Type::U16 | Type::B16 | Type::S16 => Self::Number("i16"),
            Type::U8 | Type::B8 | Type::S8 => Self::Number("i8"),
            _ => Self::Bytes(size_bytes),
        }
    }
}

/// What a name stands for: what an argument's key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Tensor(&'static str),
    Lengths(&'static str),
    BlockTable,
    Value(&'static str),
}

use Meaning::{BlockTable, Lengths, Tensor, Value};

/// Names without underscores, in lower case, of addresses.
const POINTERS: &[(&[&str], Meaning)] = &[
    (&["q", "query", "queries", "qs"], Tensor("q")),
    (&["k", "key", "keys", "kcache", "keycache", "cachek", "pastk", "ks"], Tensor("k_cache")),
    (&["v", "value", "values", "vcache", "valuecache", "cachev", "pastv", "vs"], Tensor("v_cache")),
    (&["knew", "newk", "newkeys", "keynew", "kcur"], Tensor("k_new")),
    (&["vnew", "newv", "newvalues", "valuenew", "vcur"], Tensor("v_new")),
    (&["o", "out", "output", "attnout", "result", "dst", "outputs"], Tensor("out")),
    (&["lse", "softmaxlse", "logsumexp", "lseout", "outlse"], Tensor("lse")),
    (&["sinks", "sink", "saux", "attnsinks"], Tensor("sinks")),
    (&["blocktable", "blocktables", "pagetable", "pagetables"], BlockTable),
    (
        &["pastlen", "pastlens", "pastlengths", "cachelens", "cachelen", "cacheseqlens", "positions", "pos"],
        Lengths("past_len"),
    ),
    (
        &[
            "kvlen",
            "kvlens",
            "seqlen",
            "seqlens",
            "contextlens",
            "contextlen",
            "sequsedk",
            "seqlensk",
            "kvseqlens",
            "lens",
            "lengths",
            "nkv",
            "kvlengths",
        ],
        Lengths("kv_len"),
    ),
    (&["qlen", "qlens", "seqlensq"], Lengths("q_len")),
    (&["cuseqlensq", "cuqlens", "cuseqlenq", "qstart", "qstartloc", "cuqlen"], Lengths("cu_q_len")),
    (&["cuseqlensk", "cukvlens", "cuseqlenk", "cuseqlenskv", "cukvlen"], Lengths("cu_kv_len")),
];

/// The same of whole numbers.
const INTEGERS: &[(&[&str], Meaning)] = &[
    (&["batch", "batchsize", "b", "bs", "numseqs", "nseqs", "numrequests"], Value("batch")),
    (
        &[
            "numheads",
            "nheads",
            "nhead",
            "numqheads",
            "nqheads",
            "qheads",
            "heads",
            "h",
            "hq",
            "numattentionheads",
            "numhead",
        ],
        Value("num_q_heads"),
    ),
    (
        &["numkvheads", "nkvheads", "kvheads", "hk", "hkv", "nheadkv", "nheadskv", "numheadskv", "kvh"],
        Value("num_kv_heads"),
    ),
    (
        &["groupsize", "gqaratio", "qperkv", "group", "nrep", "numqueriesperkv", "gqagroup", "queriesperkv"],
        Value("q_per_kv"),
    ),
    (&["headdim", "headsize", "d", "dh", "hd", "dim", "dhead", "headdimqk", "headdimension"], Value("head_dim")),
    (&["vheaddim", "headdimv", "dv", "headdimvo", "headsizev"], Value("v_head_dim")),
    (
        &[
            "seqlen",
            "kvlen",
            "contextlen",
            "nctx",
            "kvseqlen",
            "n",
            "len",
            "seqlenk",
            "nkv",
            "ctxlen",
            "numkeys",
            "seqlenkv",
        ],
        Value("kv_len_max"),
    ),
    (&["pastlen", "pos", "position", "cachelen", "npast", "startpos"], Value("past_len_max")),
    (
        &[
            "maxseqlen",
            "maxseq",
            "maxlen",
            "capacity",
            "maxctx",
            "maxcontextlen",
            "cachecapacity",
            "maxkvlen",
            "maxseqlenk",
        ],
        Value("capacity"),
    ),
    (&["qlen", "seqlenq", "nq", "numqueries", "maxseqlenq", "maxqlen"], Value("q_len_max")),
    (&["totalq", "totalqlen", "numtokens", "ntokens"], Value("total_q_len")),
    (&["pagesize", "pageblocksize", "blocksize", "tokensperpage"], Value("page_size")),
    (
        &["maxblocksperseq", "maxpagesperseq", "maxnumblocksperseq", "pagesperrequest", "blocktablestride"],
        Value("pages_per_request"),
    ),
    (&["numpages", "numblocks"], Value("num_pages")),
    (&["window", "slidingwindow", "windowsize", "windowleft"], Value("window")),
    (&["causal", "iscausal"], Value("causal")),
    (&["step"], Value("step")),
];

/// The same of numbers with a fraction.
const FRACTIONS: &[(&[&str], Meaning)] = &[
    (
        &["scale", "smscale", "softmaxscale", "attnscale", "qkscale", "scaling", "invsqrtd", "rsqrtd", "kqscale"],
        Value("scale"),
    ),
    (
        &["scalelog2", "softmaxscalelog2", "smscalelog2", "qkscalelog2", "scalelog2e"],
        Value("scale * 1.4426950408889634"),
    ),
    (&["softcap", "logitcap", "logitscap", "logitssoftcap", "logitsoftcap"], Value("softcap")),
];

/// What a parameter of this name and kind is likely to be; nothing if there is no telling.
pub(super) fn meaning(name: &str, kind: Kind) -> Option<Meaning> {
    let plain = plain(name);
    let of = |table: &[(&[&str], Meaning)]| {
        table.iter().find(|(names, _)| names.contains(&plain.as_str())).map(|(_, meaning)| *meaning)
    };
    match kind {
        Kind::Pointer { element, .. } => of(POINTERS).filter(|meaning| match (meaning, element) {
            (_, None) => true,
            (Lengths(_) | BlockTable, Some(element)) => element == Element::I32,
            (Tensor("lse" | "sinks"), Some(element)) => element == Element::F32,
            (_, Some(element)) => matches!(element, Element::F32 | Element::F16 | Element::Bf16),
        }),
        Kind::Number("f32" | "f64") => of(FRACTIONS),
        Kind::Number(_) => of(INTEGERS).or_else(|| stride(name)),
        Kind::Bytes(_) | Kind::Unknown => None,
    }
}

/// What `int NAME = blockIdx.x` counts, if the name tells.
pub(super) fn axis(name: &str) -> Option<&'static str> {
    match plain(name).trim_end_matches("idx").trim_end_matches("id").trim_end_matches("index") {
        "h" | "head" | "qhead" | "qh" | "headq" | "hq" => Some("num_q_heads"),
        "kvhead" | "kvh" | "headkv" | "hkv" | "hk" | "khead" => Some("num_kv_heads"),
        "b" | "batch" | "seq" | "request" | "req" | "r" | "batchseq" => Some("batch"),
        "t" | "token" | "qtoken" | "row" | "query" => Some("total_q_len"),
        _ => None,
    }
}

/// A name in lower case without underscores and without what says only that it is a pointer or a number.
fn plain(name: &str) -> String {
    let mut words: Vec<&str> = name.split('_').filter(|word| !word.is_empty()).collect();
    let filler = ["ptr", "ptrs", "data", "buf", "buffer", "gpu", "device", "tensor", "d", "p", "in"];
    while words.len() > 1 && words.last().is_some_and(|last| filler[..8].contains(&last.to_lowercase().as_str())) {
        words.pop();
    }
    while words.len() > 1 && words.first().is_some_and(|first| filler.contains(&first.to_lowercase().as_str())) {
        words.remove(0);
    }
    let joined = words.concat();
    let joined = joined.strip_suffix("Ptr").or_else(|| joined.strip_suffix("ptr")).unwrap_or(&joined);
    joined.to_lowercase()
}

/// A stride: `k_stride_head`, `stride_kh`, `kv_head_stride`, `q_stride_token` and the like, in elements.
fn stride(name: &str) -> Option<Meaning> {
    let name = name.to_lowercase();
    if !name.contains("stride") {
        return None;
    }
    let rest = name.replace("strides", "").replace("stride", "");
    let mut words: Vec<&str> = rest.split('_').filter(|word| !word.is_empty()).collect();
    let parts: Vec<String> = match &words[..] {
        [one] if one.len() == 2 => one.chars().map(String::from).collect(),
        _ => words.drain(..).map(String::from).collect(),
    };
    let of = |names: &[&str]| parts.iter().any(|part| names.contains(&part.as_str()));
    let tensor = match () {
        () if of(&["q"]) => "q",
        () if of(&["o", "out"]) => "o",
        () if of(&["v"]) => "v",
        () if of(&["k", "kv", "cache"]) => "k",
        () => return None,
    };
    let axis = match () {
        () if of(&["head", "h", "heads"]) => "head",
        () if of(&["token", "t", "n", "s", "seq", "m", "row", "pos"]) => "token",
        () if of(&["page", "block", "p"]) => "page",
        () if of(&["batch", "b", "z", "request", "bs"]) => "request",
        () => return None,
    };
    Some(Value(match (tensor, axis) {
        ("q", "head") => "head_dim",
        ("q", "token") => "num_q_heads * head_dim",
        ("q", "request") => "q_len_max * num_q_heads * head_dim",
        ("o", "head") => "v_head_dim",
        ("o", "token") => "num_q_heads * v_head_dim",
        ("o", "request") => "q_len_max * num_q_heads * v_head_dim",
        ("k", "head") => "k_stride_head",
        ("k", "token") => "k_stride_token",
        ("k", "page") => "k_stride_page",
        ("k", "request") => "k_stride_request",
        ("v", "head") => "v_stride_head",
        ("v", "token") => "v_stride_token",
        ("v", "page") => "v_stride_page",
        ("v", "request") => "v_stride_request",
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_many_styles_mean_the_same() {
        let guess = |ty: &str, name: &str| meaning(name, Kind::of_type(ty));
        for name in ["q", "Q", "q_ptr", "d_q", "query", "Query_ptr", "qPtr"] {
            assert_eq!(guess("const float*", name), Some(Tensor("q")), "{name}");
        }
        for name in ["head_dim", "headDim", "d", "HEAD_SIZE", "head_size"] {
            assert_eq!(guess("int", name), Some(Value("head_dim")), "{name}");
        }
        assert_eq!(guess("int", "stride_kh"), Some(Value("k_stride_head")));
        assert_eq!(guess("long long", "kv_head_stride"), Some(Value("k_stride_head")));
        assert_eq!(guess("int64_t", "v_stride_token"), Some(Value("v_stride_token")));
        assert_eq!(guess("int", "o_stride_n"), Some(Value("num_q_heads * v_head_dim")));
        assert_eq!(guess("float", "softmax_scale_log2"), Some(Value("scale * 1.4426950408889634")));
        assert_eq!(guess("float", "sm_scale"), Some(Value("scale")));
    }

    /// A name says nothing where the type speaks against it.
    #[test]
    fn a_type_can_refute_a_name() {
        let guess = |ty: &str, name: &str| meaning(name, Kind::of_type(ty));
        assert_eq!(guess("const int*", "seq_lens"), Some(Lengths("kv_len")));
        assert_eq!(guess("const float*", "seq_lens"), None);
        assert_eq!(guess("const long*", "seq_lens"), None, "lengths are 32 bits");
        assert_eq!(guess("const int8_t*", "k_cache"), None, "no quantised cache");
        assert_eq!(guess("float", "head_dim"), None);
        assert_eq!(guess("int", "scale"), None);
        assert_eq!(guess("int", "stride_foo"), None);
        assert_eq!(guess("int", "k"), None);
        assert_eq!(guess("Params", "q"), None);
    }

    #[test]
    fn types_are_known_by_their_words() {
        for (text, kind) in [
            ("int", Kind::Number("i32")),
            ("const unsigned int", Kind::Number("u32")),
            ("unsigned long", Kind::Number("u64")),
            ("size_t", Kind::Number("u64")),
            ("long long", Kind::Number("i64")),
            ("float", Kind::Number("f32")),
            ("bool", Kind::Number("bool")),
            ("unsigned short", Kind::Number("u16")),
            ("int8_t", Kind::Number("i8")),
            ("Params<float>", Kind::Unknown),
            ("__half const*", Kind::Pointer { element: Some(Element::F16), is_const: true }),
            ("__nv_bfloat16*", Kind::Pointer { element: Some(Element::Bf16), is_const: false }),
            ("T*", Kind::Pointer { element: None, is_const: false }),
            ("unsigned char*", Kind::Pointer { element: Some(Element::Other), is_const: false }),
        ] {
            assert_eq!(Kind::of_type(text), kind, "{text}");
        }
    }
}
