//! Generates the SPIFFE Workload API from its .proto file, in Rust, without protoc.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/workload.proto");
    let files = protox::compile(["workload.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // The descriptors for gRPC reflection.
    std::fs::write(out.join("workload.bin"), files.encode_to_vec())?;
    tonic_build::configure()
        .build_client(false)
        .build_transport(false)
        .btree_map(["."])
        // `Bytes`, since all streams share the messages' content.
        .bytes(["."])
        .codec_path("crate::api::workload::codec::SmallBufferCodec")
        .compile_fds(files)?;
    Ok(())
}
