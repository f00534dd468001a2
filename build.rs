//! Generates the services of the workload socket from their .proto files, in Rust, without protoc.

use std::fs;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let files = ["workload.proto", "health.proto", "reflection.proto"];

    // The descriptors for gRPC reflection, without comments. Clients of the older version of reflection ask
    // for the description of that version.
    let v1alpha =
        fs::read_to_string("proto/reflection.proto")?.replace("reflection.v1;", "reflection.v1alpha;");
    fs::write(out.join("reflection_v1alpha.proto"), v1alpha)?;
    let includes = [PathBuf::from("proto"), out.clone()];
    let mut described = protox::compile(files.iter().chain(&["reflection_v1alpha.proto"]), includes)?;
    described.file.iter_mut().for_each(|file| file.source_code_info = None);
    fs::write(out.join("services.bin"), described.encode_to_vec())?;

    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .btree_map(".")
        // `Bytes`, since all streams share the messages' content.
        .bytes(".")
        .codec_path("crate::api::workload::codec::SmallBufferCodec")
        .compile_fds(protox::compile(files, ["proto"])?)?;
    Ok(())
}
