use super::*;

fn frame(frame_type: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[frame_type, flags, 0, 0, 0, stream], payload].concat()
}

fn block(authority: &str) -> Vec<u8> {
    let field = |name: &str, value: &str| HeaderField { name: name.into(), value: value.into() };
    let mut block = Vec::new();
    hpack::encode(
        &[field(":path", "/x"), field(":authority", authority), field("te", "trailers")],
        &mut block,
    );
    block
}

fn rewrite(input: &[u8]) -> Result<Vec<u8>, Malformed> {
    let (mut rewriter, mut output) = (HeaderRewriter::default(), BytesMut::new());
    rewriter.feed(&mut BytesMut::from(input), &mut output)?;
    Ok(output.to_vec())
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frames.concat()].concat()
}

#[test]
fn only_invalid_authorities_are_replaced() {
    for (sent, rewritten) in [
        ("localhost", "localhost"),
        ("example.org:80", "example.org:80"),
        ("%2Frun%2Fhostbadge%2Fworkload.sock", "localhost"),
        ("/run/hostbadge/workload.sock", "localhost"),
        ("", "localhost"),
    ] {
        let frames = [frame(4, 0, 0, &[]), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(sent))];
        let expected = [frame(4, 0, 0, &[]), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(rewritten))];
        assert_eq!(rewrite(&connection(&frames)).unwrap(), connection(&expected), "{sent:?}");
    }
}

#[test]
fn output_is_independent_of_read_boundaries() {
    let whole = block("%2Fa");
    let padded = [&[3][..], &whole[..7], &[0, 0, 0]].concat();
    let frames = [
        frame(4, 0, 0, &[1; 12]),
        frame(HEADERS, PADDED, 1, &padded),
        frame(CONTINUATION, 0, 1, &whole[7..9]),
        frame(CONTINUATION, END_HEADERS, 1, &whole[9..]),
        frame(0, 1, 1, &[5; 700]),
        frame(HEADERS, END_HEADERS | PRIORITY, 3, &[&[0; 5], &whole[..]].concat()),
    ];
    let input = connection(&frames);
    let reference = rewrite(&input).unwrap();
    let expected = frame(HEADERS, END_HEADERS, 1, &block("localhost"));
    assert!(reference.windows(expected.len()).any(|part| part == expected));
    for step in [1, 2, 3, 7, 11, 100] {
        let (mut rewriter, mut rest, mut output) =
            (HeaderRewriter::default(), BytesMut::new(), BytesMut::new());
        for chunk in input.chunks(step) {
            rest.extend_from_slice(chunk);
            rewriter.feed(&mut rest, &mut output).unwrap();
        }
        assert_eq!(output.to_vec(), reference, "{step}");
    }
}

#[test]
fn framing_violations_are_rejected() {
    let whole = block("localhost");
    let started = frame(HEADERS, 0, 1, &whole[..4]);
    for frames in [
        vec![frame(CONTINUATION, END_HEADERS, 1, &whole)],
        vec![started.clone(), frame(0, 0, 1, b"x")],
        vec![started.clone(), frame(HEADERS, END_HEADERS, 3, &whole)],
        vec![started.clone(), frame(CONTINUATION, END_HEADERS, 3, &whole[4..])],
        vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0])],
        vec![frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0; 4])],
        vec![frame(HEADERS, END_HEADERS, 1, &[0x80])],
        [vec![started.clone()], vec![frame(CONTINUATION, 0, 1, &[]); 20]].concat(),
        [vec![started], vec![frame(CONTINUATION, 0, 1, &[0; MAX_FRAME_SIZE]); 3]].concat(),
    ] {
        assert_eq!(rewrite(&connection(&frames)), Err(Malformed), "{frames:?}");
    }
    assert_eq!(rewrite(b"GET / HTTP/1.1\r\n\r\n"), Err(Malformed));
}

#[test]
fn buffered_output_is_bounded() {
    let large = HeaderField { name: b"a".to_vec(), value: vec![b'x'; 3900] };
    let mut first = Vec::new();
    hpack::encode(&[large], &mut first);
    // First a field with indexing, then frames that name it by its index six times each.
    first[0] = 0x40;
    let mut input = BytesMut::from(&connection(&[frame(HEADERS, END_HEADERS, 1, &first)])[..]);
    for _ in 0..250 {
        input.extend_from_slice(&frame(HEADERS, END_HEADERS, 3, &[0xbe; 6]));
    }
    let (mut rewriter, mut output, mut rounds) = (HeaderRewriter::default(), BytesMut::new(), 0);
    while !input.is_empty() {
        rewriter.feed(&mut input, &mut output).unwrap();
        assert!(output.len() < MAX_BUFFERED_OUTPUT + 2 * MAX_BLOCK_SIZE);
        output.clear();
        rounds += 1;
    }
    assert!(rounds > 80);
}

#[test]
fn long_blocks_are_split_into_frames() {
    let field = HeaderField { name: b"x".to_vec(), value: vec![b'v'; 20_000] };
    let mut long = Vec::new();
    hpack::encode(&[field], &mut long);
    let frames = [
        frame(HEADERS, END_STREAM, 1, &long[..MAX_FRAME_SIZE]),
        frame(CONTINUATION, END_HEADERS, 1, &long[MAX_FRAME_SIZE..]),
    ];
    let input = connection(&frames);
    assert_eq!(rewrite(&input).unwrap(), input);
}
