//! Pickles quoted here were written by CPython 3.11 (`pickle.dumps(value, protocol)`).

use super::*;
use proptest::prelude::*;

/// A value as text, one level after the other; cycles are cut by `depth`.
fn show(value: Value<'_>, depth: usize) -> String {
    if depth == 0 {
        return "...".into();
    }
    if let Some(bytes) = value.as_bytes()
        && value.as_str().is_none()
    {
        return format!("bytes{bytes:?}");
    }
    let list = |items: Items<'_>| items.map(|v| show(v, depth - 1)).collect::<Vec<_>>().join(" ");
    match value.kind() {
        Kind::None => "None".into(),
        Kind::Bool(b) => b.to_string(),
        Kind::Int(i) => i.to_string(),
        Kind::BigInt(bytes) => format!("big{bytes:?}"),
        Kind::Float(f) => format!("{f:?}"),
        Kind::Str(text) => format!("{text:?}"),
        Kind::List(items) => format!("[{}]", list(items)),
        Kind::Tuple(items) => format!("({})", list(items)),
        Kind::Set(items) => format!("{{{}}}", list(items)),
        _ => match (value.items(), value.pairs()) {
            (Some(items), _) => format!("{{{}}}", list(items)),
            (None, Some(pairs)) => {
                let each = pairs.iter().map(|(k, v)| format!("{}:{}", show(*k, depth - 1), show(*v, depth - 1)));
                format!("{{{}}}", each.collect::<Vec<_>>().join(" "))
            }
            (None, None) => value.describe(),
        },
    }
}

fn read(data: &[u8]) -> String {
    show(Pickle::parse(data).unwrap().root(), 6)
}

/// `[None, True, False, 0, 255, 65535, -1, 1 << 40, -(1 << 40), 1 << 70, 1.5, b'\0\xff', 'café\n\\', (), (1,), (1, 2),
/// (1, 2, 3), (1, 2, 3, 4), [], {}, {'a': 1, 2: 'b'}, {1}, frozenset([2]), bytearray(b'xy')]`
const MIXED: [&[u8]; 6] = [
    b"(lp0\nNaI01\naI00\naI0\naI255\naI65535\naI-1\naL1099511627776L\naL-1099511627776L\naL1180591620717411303424L\naF1.5\nac_codecs\nencode\np1\n(V\\u0000\xff\np2\nVlatin1\np3\ntp4\nRp5\naVcaf\xe9\\u000a\\u005c\np6\na(ta(I1\ntp7\na(I1\nI2\ntp8\na(I1\nI2\nI3\ntp9\na(I1\nI2\nI3\nI4\ntp10\na(lp11\na(dp12\na(dp13\nVa\np14\nI1\nsI2\nVb\np15\nsac__builtin__\nset\np16\n((lp17\nI1\natp18\nRp19\nac__builtin__\nfrozenset\np20\n((lp21\nI2\natp22\nRp23\nac__builtin__\nbytearray\np24\n(g1\n(Vxy\np25\ng3\ntp26\nRp27\ntp28\nRp29\na.",
    b"]q\x00(NI01\nI00\nK\x00K\xffM\xff\xffJ\xff\xff\xff\xffL1099511627776L\nL-1099511627776L\nL1180591620717411303424L\nG?\xf8\x00\x00\x00\x00\x00\x00c_codecs\nencode\nq\x01(X\x03\x00\x00\x00\x00\xc3\xbfq\x02X\x06\x00\x00\x00latin1q\x03tq\x04Rq\x05X\x07\x00\x00\x00caf\xc3\xa9\n\\q\x06)(K\x01tq\x07(K\x01K\x02tq\x08(K\x01K\x02K\x03tq\t(K\x01K\x02K\x03K\x04tq\n]q\x0b}q\x0c}q\r(X\x01\x00\x00\x00aq\x0eK\x01K\x02X\x01\x00\x00\x00bq\x0fuc__builtin__\nset\nq\x10(]q\x11K\x01atq\x12Rq\x13c__builtin__\nfrozenset\nq\x14(]q\x15K\x02atq\x16Rq\x17c__builtin__\nbytearray\nq\x18(h\x01(X\x02\x00\x00\x00xyq\x19h\x03tq\x1aRq\x1btq\x1cRq\x1de.",
    b"\x80\x02]q\x00(N\x88\x89K\x00K\xffM\xff\xffJ\xff\xff\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\x06\x00\x00\x00\x00\x00\xff\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@G?\xf8\x00\x00\x00\x00\x00\x00c_codecs\nencode\nq\x01X\x03\x00\x00\x00\x00\xc3\xbfq\x02X\x06\x00\x00\x00latin1q\x03\x86q\x04Rq\x05X\x07\x00\x00\x00caf\xc3\xa9\n\\q\x06)K\x01\x85q\x07K\x01K\x02\x86q\x08K\x01K\x02K\x03\x87q\t(K\x01K\x02K\x03K\x04tq\n]q\x0b}q\x0c}q\r(X\x01\x00\x00\x00aq\x0eK\x01K\x02X\x01\x00\x00\x00bq\x0fuc__builtin__\nset\nq\x10]q\x11K\x01a\x85q\x12Rq\x13c__builtin__\nfrozenset\nq\x14]q\x15K\x02a\x85q\x16Rq\x17c__builtin__\nbytearray\nq\x18h\x01X\x02\x00\x00\x00xyq\x19h\x03\x86q\x1aRq\x1b\x85q\x1cRq\x1de.",
    b"\x80\x03]q\x00(N\x88\x89K\x00K\xffM\xff\xffJ\xff\xff\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\x06\x00\x00\x00\x00\x00\xff\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@G?\xf8\x00\x00\x00\x00\x00\x00C\x02\x00\xffq\x01X\x07\x00\x00\x00caf\xc3\xa9\n\\q\x02)K\x01\x85q\x03K\x01K\x02\x86q\x04K\x01K\x02K\x03\x87q\x05(K\x01K\x02K\x03K\x04tq\x06]q\x07}q\x08}q\t(X\x01\x00\x00\x00aq\nK\x01K\x02X\x01\x00\x00\x00bq\x0bucbuiltins\nset\nq\x0c]q\rK\x01a\x85q\x0eRq\x0fcbuiltins\nfrozenset\nq\x10]q\x11K\x02a\x85q\x12Rq\x13cbuiltins\nbytearray\nq\x14C\x02xyq\x15\x85q\x16Rq\x17e.",
    b"\x80\x04\x95\xa6\x00\x00\x00\x00\x00\x00\x00]\x94(N\x88\x89K\x00K\xffM\xff\xffJ\xff\xff\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\x06\x00\x00\x00\x00\x00\xff\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@G?\xf8\x00\x00\x00\x00\x00\x00C\x02\x00\xff\x94\x8c\x07caf\xc3\xa9\n\\\x94)K\x01\x85\x94K\x01K\x02\x86\x94K\x01K\x02K\x03\x87\x94(K\x01K\x02K\x03K\x04t\x94]\x94}\x94}\x94(\x8c\x01a\x94K\x01K\x02\x8c\x01b\x94u\x8f\x94(K\x01\x90(K\x02\x91\x94\x8c\x08builtins\x94\x8c\tbytearray\x94\x93\x94C\x02xy\x94\x85\x94R\x94e.",
    b"\x80\x05\x95\x90\x00\x00\x00\x00\x00\x00\x00]\x94(N\x88\x89K\x00K\xffM\xff\xffJ\xff\xff\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\x06\x00\x00\x00\x00\x00\xff\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@G?\xf8\x00\x00\x00\x00\x00\x00C\x02\x00\xff\x94\x8c\x07caf\xc3\xa9\n\\\x94)K\x01\x85\x94K\x01K\x02\x86\x94K\x01K\x02K\x03\x87\x94(K\x01K\x02K\x03K\x04t\x94]\x94}\x94}\x94(\x8c\x01a\x94K\x01K\x02\x8c\x01b\x94u\x8f\x94(K\x01\x90(K\x02\x91\x94\x96\x02\x00\x00\x00\x00\x00\x00\x00xy\x94e.",
];

const NAMESPACE_P0: &[u8] = b"ccopy_reg\n_reconstructor\np0\n(cargparse\nNamespace\np1\nc__builtin__\nobject\np2\nNtp3\nRp4\n(dp5\nVlr\np6\nF3e-05\nsVname\np7\nVx\np8\nsVbetas\np9\n(F0.9\nF0.98\ntp10\nsb.";
const NAMESPACE_P4: &[u8] = b"\x80\x04\x95W\x00\x00\x00\x00\x00\x00\x00\x8c\x08argparse\x94\x8c\tNamespace\x94\x93\x94)\x81\x94}\x94(\x8c\x02lr\x94G>\xffu\x10MU\x1di\x8c\x04name\x94\x8c\x01x\x94\x8c\x05betas\x94G?\xec\xcc\xcc\xcc\xcc\xcc\xcdG?\xef\\(\xf5\xc2\x8f\\\x86\x94ub.";
const ORDERED_DICT_P2: &[u8] =
    b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x01\x00\x00\x00aq\x02K\x01X\x01\x00\x00\x00bq\x03K\x02u.";

#[test]
fn every_protocol_gives_the_same_values() {
    let expected = "[None true false 0 255 65535 -1 1099511627776 -1099511627776 BIG 1.5 bytes[0, 255] \
                    \"café\\n\\\\\" () (1) (1 2) (1 2 3) (1 2 3 4) [] {} {\"a\":1 2:\"b\"} {1} {2} bytes[120, 121]]";
    let short = "big[0, 0, 0, 0, 0, 0, 0, 0, 64]";
    let wide = "big[0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0]";
    for (protocol, data) in MIXED.iter().enumerate() {
        let big = if protocol < 2 { wide } else { short };
        assert_eq!(read(data), expected.replace("BIG", big), "protocol {protocol}");
    }
}

#[test]
fn objects_keep_class_and_state() {
    for data in [NAMESPACE_P0, NAMESPACE_P4] {
        let pickle = Pickle::parse(data).unwrap();
        let args = pickle.root();
        assert_eq!(args.class(), Some(("argparse", "Namespace")));
        assert_eq!(args.attribute("lr").unwrap().as_f64(), Some(3e-5));
        assert_eq!(args.attribute("name").unwrap().as_str(), Some("x"));
        assert!(args.attribute("missing").is_none());
    }
    assert_eq!(read(ORDERED_DICT_P2), "{\"a\":1 \"b\":2}");
    let pickle = Pickle::parse(ORDERED_DICT_P2).unwrap();
    assert_eq!(pickle.root().get("b").unwrap().as_int(), Some(2));
    let kept = pickle.into_owned();
    assert_eq!(kept.root().get("a").unwrap().as_int(), Some(1));
}

#[test]
fn python2_strings_are_text_where_they_can_be() {
    assert_eq!(read(b"S'caf\\xc3\\xa9'\np0\n."), "\"café\"");
    assert_eq!(read(b"U\x02\xff\xfe."), "bytes[255, 254]");
    assert_eq!(read(b"T\x02\x00\x00\x00hi."), "\"hi\"");
}

#[test]
fn what_contains_itself_is_read() {
    // a = []; a.append(a)
    assert_eq!(read(b"\x80\x02]q\x00h\x00a."), "[[[[[[...]]]]]]");
}

#[test]
fn deep_nesting_needs_no_stack() {
    let mut data = vec![b')'];
    data.extend(std::iter::repeat_n(0x85, 2_000_000)); // TUPLE1
    data.push(b'.');
    let pickle = Pickle::parse(&data).unwrap();
    assert_eq!(pickle.root().describe(), "tuple of length 1");
}

#[test]
fn errors_name_offset_opcode_and_expectation() {
    let cases: [(&[u8], &str); 15] = [
        (b"", "byte 0: the next opcode needs 1 more bytes but only 0"),
        (b"\x80\x04hello.", "byte 2: BINGET expected a stored memo index, found 101"),
        (b"\x80\x09.", "byte 0: PROTO expected a protocol of 0 to 5, found 9"),
        (b"\x80\x04N", "byte 3: the next opcode needs 1 more bytes"),
        (b"X\xff\xff\xff\xffab", "byte 0: BINUNICODE needs 4294967295 more bytes but only 2"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", "BINBYTES8 needs 18446744073709551615 more"),
        (b"\xff", "byte 0: 0xff is not a pickle opcode"),
        (b".", "byte 0: STOP expected a value on the stack, found none"),
        (b"(.", "byte 1: STOP expected a value on the stack, found none"),
        (b"K\x01K\x02a.", "byte 4: APPEND expected a list below, found int 1"),
        (b"}(K\x01u.", "byte 4: SETITEMS expected keys with values, found 1 values"),
        (b"cos\nsystem\nK\x01R.", "REDUCE expected a tuple of arguments, found int 1"),
        (b"r\xff\xff\xff\xff.", "LONG_BINPUT expected a memo index below the file's length, found 4294967295"),
        (b"\x97.", "NEXT_BUFFER expected all data inside the file"),
        (b"X\x01\x00\x00\x00\xff.", "byte 0: BINUNICODE expected UTF-8 text"),
    ];
    for (data, expected) in cases {
        let error = Pickle::parse(data).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
}

/// What `for_each_element` hands over, and the error it ends with.
fn stream(data: &[u8]) -> (Vec<String>, Option<PickleError>) {
    let mut seen = Vec::new();
    let result = for_each_element(data, |value| {
        seen.push(show(value, 6));
        Ok::<(), PickleError>(())
    });
    (seen, result.err())
}

#[test]
fn streaming_gives_the_elements_of_every_protocol() {
    for data in MIXED {
        let pickle = Pickle::parse(data).unwrap();
        let whole: Vec<String> = pickle.root().items().unwrap().map(|v| show(v, 6)).collect();
        assert_eq!(stream(data), (whole, None));
    }
}

#[test]
fn streaming_keeps_what_later_elements_share() {
    // ["ab", ("ab", [1]), the same tuple, then one APPENDS further the string, the tuple and a string]
    let data = b"\x80\x02](X\x02\x00\x00\x00abq\x00h\x00]K\x01a\x86q\x01h\x01e(h\x00h\x01X\x01\x00\x00\x00cq\x02e(h\x02h\x00e.";
    let expected = ["\"ab\"", "(\"ab\" [1])", "(\"ab\" [1])", "\"ab\"", "(\"ab\" [1])", "\"c\"", "\"c\"", "\"ab\""];
    assert_eq!(stream(data), (expected.map(String::from).to_vec(), None));
}

#[test]
fn streaming_keeps_what_grows_later() {
    // l = [] memoised before the top-level list's elements; each element appends to it and is it
    let data = b"](]q\x00K\x01ae(h\x00K\x02ae(h\x00K\x03ae.";
    let expected = ["[1]", "[1 2]", "[1 2 3]"];
    assert_eq!(stream(data), (expected.map(String::from).to_vec(), None));
}

#[test]
fn streaming_refuses_what_is_no_list() {
    for data in [&b"\x80\x02}."[..], b"](K\x01e0K\x02.", b"](K\x01e\x85."] {
        let error = stream(data).1.unwrap().to_string();
        assert!(error.contains("a list of records at the top"), "{error}");
    }
    assert_eq!(stream(b"(K\x01K\x02l."), (vec!["1".into(), "2".into()], None));
}

/// `numpy.float32(1.5)`, `numpy.int64(-7)`, `numpy.str_('é1')`, `numpy.float64(2.5)` of protocol 4, numpy 1.24.
const SCALARS: &[u8] = b"\x80\x04\x95\x02\x01\x00\x00\x00\x00\x00\x00]\x94(\x8c\x15numpy.core.multiarray\x94\x8c\x06scalar\x94\x93\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02f4\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bC\x04\x00\x00\xc0?\x94\x86\x94R\x94h\x03h\x06\x8c\x02i8\x94\x89\x88\x87\x94R\x94(K\x03h\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bC\x08\xf9\xff\xff\xff\xff\xff\xff\xff\x94\x86\x94R\x94h\x03h\x06\x8c\x02U2\x94\x89\x88\x87\x94R\x94(K\x03h\nNNNK\x08K\x04K\x08t\x94bC\x08\xe9\x00\x00\x001\x00\x00\x00\x94\x86\x94R\x94h\x03h\x06\x8c\x02f8\x94\x89\x88\x87\x94R\x94(K\x03h\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bC\x08\x00\x00\x00\x00\x00\x00\x04@\x94\x86\x94R\x94e.";

#[test]
fn numpy_scalars() {
    let pickle = Pickle::parse(SCALARS).unwrap();
    let items = pickle.root().items().unwrap();
    assert_eq!(items.get(0).unwrap().as_f64(), Some(1.5));
    assert_eq!(items.get(1).unwrap().as_f64(), Some(-7.0));
    assert_eq!(scalar_str(items.get(2).unwrap()).as_deref(), Some("é1"));
    assert_eq!(items.get(2).unwrap().as_f64(), None);
    assert_eq!(items.get(3).unwrap().as_f64(), Some(2.5));
}

/// `[numpy.arange(6, dtype=t).reshape(2, 3) for t in ('>i2', '<f4', '|u1', '<f2')]`, a transposed (Fortran) f8 array of
/// shape (2, 3), `numpy.array([True, False])`, and an object array; protocol 2, numpy 1.24.
const ARRAYS: &[u8] = b"\x80\x02]q\x00(cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03c_codecs\nencode\nq\x04X\x01\x00\x00\x00bq\x05X\x06\x00\x00\x00latin1q\x06\x86q\x07Rq\x08\x87q\x09Rq\n(K\x01K\x02K\x03\x86q\x0bcnumpy\ndtype\nq\x0cX\x02\x00\x00\x00i2q\x0d\x89\x88\x87q\x0eRq\x0f(K\x03X\x01\x00\x00\x00>q\x10NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x11b\x89h\x04X\x0c\x00\x00\x00\x00\x00\x00\x01\x00\x02\x00\x03\x00\x04\x00\x05q\x12h\x06\x86q\x13Rq\x14tq\x15bh\x01h\x02K\x00\x85q\x16h\x08\x87q\x17Rq\x18(K\x01K\x02K\x03\x86q\x19h\x0cX\x02\x00\x00\x00f4q\x1a\x89\x88\x87q\x1bRq\x1c(K\x03X\x01\x00\x00\x00<q\x1dNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x1eb\x89h\x04X\x1b\x00\x00\x00\x00\x00\x00\x00\x00\x00\xc2\x80?\x00\x00\x00@\x00\x00@@\x00\x00\xc2\x80@\x00\x00\xc2\xa0@q\x1fh\x06\x86q Rq!tq\"bh\x01h\x02K\x00\x85q#h\x08\x87q$Rq%(K\x01K\x02K\x03\x86q&h\x0cX\x02\x00\x00\x00u1q'\x89\x88\x87q(Rq)(K\x03X\x01\x00\x00\x00|q*NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq+b\x89h\x04X\x06\x00\x00\x00\x00\x01\x02\x03\x04\x05q,h\x06\x86q-Rq.tq/bh\x01h\x02K\x00\x85q0h\x08\x87q1Rq2(K\x01K\x02K\x03\x86q3h\x0cX\x02\x00\x00\x00f2q4\x89\x88\x87q5Rq6(K\x03h\x1dNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq7b\x89h\x04X\x0c\x00\x00\x00\x00\x00\x00<\x00@\x00B\x00D\x00Eq8h\x06\x86q9Rq:tq;bh\x01h\x02K\x00\x85q<h\x08\x87q=Rq>(K\x01K\x02K\x03\x86q?h\x0cX\x02\x00\x00\x00f8q@\x89\x88\x87qARqB(K\x03h\x1dNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tqCb\x88h\x04X1\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xc3\xb0?\x00\x00\x00\x00\x00\x00\x00@\x00\x00\x00\x00\x00\x00\x08@\x00\x00\x00\x00\x00\x00\x10@\x00\x00\x00\x00\x00\x00\x14@qDh\x06\x86qERqFtqGbh\x01h\x02K\x00\x85qHh\x08\x87qIRqJ(K\x01K\x02\x85qKh\x0cX\x02\x00\x00\x00b1qL\x89\x88\x87qMRqN(K\x03h*NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tqOb\x89h\x04X\x02\x00\x00\x00\x01\x00qPh\x06\x86qQRqRtqSbh\x01h\x02K\x00\x85qTh\x08\x87qURqV(K\x01K\x02\x85qWh\x0cX\x02\x00\x00\x00O8qX\x89\x88\x87qYRqZ(K\x03h*NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tq[b\x89]q\\(NX\x01\x00\x00\x00aq]etq^be.";

#[test]
fn numpy_arrays() {
    let pickle = Pickle::parse(ARRAYS).unwrap();
    let items = pickle.root().items().unwrap();
    for i in 0..4 {
        let array = NdArray::from_value(items.get(i).unwrap()).unwrap();
        assert_eq!(array.shape, [2, 3]);
        assert_eq!(array.to_f64(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "array {i}");
    }
    let fortran = NdArray::from_value(items.get(4).unwrap()).unwrap();
    assert!(fortran.fortran);
    assert_eq!(fortran.to_f64(), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    let flags = NdArray::from_value(items.get(5).unwrap()).unwrap();
    assert_eq!(flags.to_f64(), [1.0, 0.0]);
    let error = NdArray::from_value(items.get(6).unwrap()).unwrap_err();
    assert!(matches!(error, NumpyError::ElementType { .. }), "{error}");
    let error = NdArray::from_value(pickle.root()).unwrap_err();
    assert!(matches!(error, NumpyError::NotAnArray { .. }), "{error}");
}

#[test]
fn numpy_shapes_must_fit_their_data() {
    // the shape (2, 3) of the u1 array becomes (9, 3)
    let mut data = ARRAYS.to_vec();
    let places: Vec<usize> = (0..data.len() - 3).filter(|&i| data[i..].starts_with(b"K\x02K\x03")).collect();
    for place in places {
        data[place + 1] = 9;
    }
    let pickle = Pickle::parse(&data).unwrap();
    let error = NdArray::from_value(pickle.root().items().unwrap().get(0).unwrap()).unwrap_err();
    assert!(matches!(error, NumpyError::Length { .. }), "{error}");
}

/// Reads `data` in every way there is; what it finds does not matter, only that it returns, and how much it keeps.
fn exercise(data: &[u8]) {
    if let Ok(pickle) = Pickle::parse(data) {
        assert!(pickle.num_values() <= 3 * data.len());
        let root = pickle.root();
        let _ = (show(root, 4), root.as_f64(), root.state(), root.get("a"));
        let _ = NdArray::from_value(root).map(|array| array.to_f64());
    }
    let _ = stream(data);
}

fn valid() -> impl Strategy<Value = Vec<u8>> {
    let all: Vec<&'static [u8]> =
        MIXED.into_iter().chain([NAMESPACE_P0, NAMESPACE_P4, ORDERED_DICT_P2, SCALARS, ARRAYS]).collect();
    prop::sample::select(all).prop_map(<[u8]>::to_vec)
}

/// Bytes that are mostly opcodes with short arguments.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let codes =
        b"(.012NK\x01JMabtesu]})}lqhrj\x80\x81\x85\x86\x87\x88\x8a\x8b\x8c\x8f\x90\x91\x92\x93\x94RQocX\x00\x00\x00\n";
    prop::collection::vec(prop::sample::select(codes.to_vec()), 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_are_harmless(data in prop::collection::vec(any::<u8>(), 0..300)) {
        exercise(&data);
    }

    #[test]
    fn arbitrary_opcodes_are_harmless(mut data in soup()) {
        data.push(b'.');
        exercise(&data);
    }

    #[test]
    fn mutated_pickles_are_harmless(
        mut data in valid(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        for (place, byte) in changes {
            let place = place.index(data.len());
            data[place] = byte;
        }
        if cut {
            data.truncate(end.index(data.len()));
        }
        exercise(&data);
    }
}
