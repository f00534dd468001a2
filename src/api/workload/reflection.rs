//! The gRPC reflection service, which describes the services of the socket. Every local process may call it.
//!
//! A stream answers one question at a time, when its client takes the answer, and starts no task, so a client
//! that leaves or does not read costs no more than its call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use prost::{DecodeError, Message};
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use tokio::time::{Sleep, sleep};
use tonic::codegen::tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

use super::pb::reflection::server_reflection_request::MessageRequest;
use super::pb::reflection::server_reflection_response::MessageResponse;
use super::pb::reflection::server_reflection_server::ServerReflection;
use super::pb::reflection::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
    ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
};

/// The files of `proto/` as descriptors.
const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/services.bin"));
/// Longest time that a stream is open. A client asks all that it needs at its start.
const STREAM_LIFETIME: Duration = Duration::from_secs(10);
/// Most questions on one stream; there are fewer names to ask for.
const MAX_QUESTIONS: u32 = 200;

/// Answers from the descriptors in the binary.
#[derive(Clone)]
pub struct ReflectionService(Arc<Descriptors>);

impl ReflectionService {
    /// Reads the descriptors.
    ///
    /// # Errors
    /// They are malformed, which is a fault of the build.
    pub fn new() -> Result<ReflectionService, DecodeError> {
        Ok(ReflectionService(Arc::new(Descriptors::decode(FILE_DESCRIPTOR_SET)?)))
    }
}

#[async_trait]
impl ServerReflection for ReflectionService {
    type ServerReflectionInfoStream = AnswerStream;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<AnswerStream>, Status> {
        Ok(Response::new(AnswerStream {
            questions: request.into_inner(),
            descriptors: self.0.clone(),
            remaining: MAX_QUESTIONS,
            deadline: Box::pin(sleep(STREAM_LIFETIME)),
            ended: false,
        }))
    }
}

/// The response of one call.
pub struct AnswerStream {
    questions: Streaming<ServerReflectionRequest>,
    descriptors: Arc<Descriptors>,
    remaining: u32,
    deadline: Pin<Box<Sleep>>,
    ended: bool,
}

impl AnswerStream {
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<ServerReflectionResponse, Status>>> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            let end = Status::deadline_exceeded("a reflection stream is open for 10 s at most; call again");
            return Poll::Ready(Some(Err(end)));
        }
        let Some(question) = ready!(Pin::new(&mut self.questions).poll_next(cx)) else {
            return Poll::Ready(None);
        };
        let Some(remaining) = self.remaining.checked_sub(1) else {
            let end = Status::resource_exhausted("a reflection stream has 200 questions at most; call again");
            return Poll::Ready(Some(Err(end)));
        };
        self.remaining = remaining;
        Poll::Ready(Some(question.map(|question| self.descriptors.answer(question))))
    }
}

impl Stream for AnswerStream {
    type Item = Result<ServerReflectionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = ready!(self.poll_answer(cx));
        self.ended = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}

/// The files, and the services that they declare.
struct Descriptors {
    files: Vec<DescribedFile>,
    services: Vec<String>,
}

/// One file, encoded, with what it declares.
struct DescribedFile {
    name: String,
    /// Messages, enumerations, services and methods, each with its package.
    symbols: Vec<String>,
    encoded: Bytes,
}

impl Descriptors {
    fn decode(set: &[u8]) -> Result<Descriptors, DecodeError> {
        let set = FileDescriptorSet::decode(set)?;
        let services = set
            .file
            .iter()
            .flat_map(|file| file.service.iter().map(|service| qualified(file.package(), service.name())));
        let services = services.collect();
        Ok(Descriptors { services, files: set.file.iter().map(DescribedFile::new).collect() })
    }

    fn answer(&self, question: ServerReflectionRequest) -> ServerReflectionResponse {
        let answer = match &question.message_request {
            Some(MessageRequest::FileByFilename(name)) => self.file(|file| file.name == *name),
            Some(MessageRequest::FileContainingSymbol(symbol)) => {
                self.file(|file| file.symbols.contains(symbol))
            }
            Some(MessageRequest::FileContainingExtension(_)) => {
                error(Code::NotFound, "there are no extensions")
            }
            // grpcurl asks this of each message that it describes.
            Some(MessageRequest::AllExtensionNumbersOfType(base_type_name)) => {
                MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                    base_type_name: base_type_name.clone(),
                    extension_number: Vec::new(),
                })
            }
            Some(MessageRequest::ListServices(_)) => {
                let service =
                    self.services.iter().map(|name| ServiceResponse { name: name.clone() }).collect();
                MessageResponse::ListServicesResponse(ListServiceResponse { service })
            }
            None => error(Code::InvalidArgument, "the question is empty or of an unknown kind"),
        };
        ServerReflectionResponse {
            valid_host: question.host.clone(),
            original_request: Some(question),
            message_response: Some(answer),
        }
    }

    fn file(&self, matches: impl Fn(&DescribedFile) -> bool) -> MessageResponse {
        match self.files.iter().find(|file| matches(file)) {
            Some(file) => MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
                file_descriptor_proto: vec![file.encoded.clone()],
            }),
            None => error(Code::NotFound, "no file of this socket's services has or declares this name"),
        }
    }
}

impl DescribedFile {
    fn new(file: &FileDescriptorProto) -> DescribedFile {
        let (package, mut symbols) = (file.package(), Vec::new());
        file.message_type.iter().for_each(|message| add_message(package, message, &mut symbols));
        symbols.extend(file.enum_type.iter().map(|item| qualified(package, item.name())));
        for service in &file.service {
            let name = qualified(package, service.name());
            symbols.extend(service.method.iter().map(|method| qualified(&name, method.name())));
            symbols.push(name);
        }
        DescribedFile { name: file.name().to_owned(), symbols, encoded: file.encode_to_vec().into() }
    }
}

fn add_message(prefix: &str, message: &DescriptorProto, symbols: &mut Vec<String>) {
    let name = qualified(prefix, message.name());
    message.nested_type.iter().for_each(|nested| add_message(&name, nested, symbols));
    symbols.extend(message.enum_type.iter().map(|item| qualified(&name, item.name())));
    symbols.push(name);
}

fn qualified(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

fn error(code: Code, message: &str) -> MessageResponse {
    MessageResponse::ErrorResponse(ErrorResponse { error_code: code.into(), error_message: message.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(question: MessageRequest) -> MessageResponse {
        let descriptors = Descriptors::decode(FILE_DESCRIPTOR_SET).unwrap();
        let question = ServerReflectionRequest { host: "h".into(), message_request: Some(question) };
        let answer = descriptors.answer(question.clone());
        assert_eq!((answer.valid_host.as_str(), answer.original_request), ("h", Some(question)));
        answer.message_response.unwrap()
    }

    #[test]
    fn services_are_listed() {
        let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices("".into())) else {
            panic!("another answer");
        };
        let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        names.sort();
        let expected = [
            "SpiffeWorkloadAPI",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn each_name_leads_to_its_file() {
        for (symbol, file) in [
            ("SpiffeWorkloadAPI", "workload.proto"),
            ("SpiffeWorkloadAPI.FetchJWTSVID", "workload.proto"),
            ("X509SVIDResponse.FederatedBundlesEntry", "workload.proto"),
            ("google.protobuf.Struct", "google/protobuf/struct.proto"),
            ("grpc.health.v1.HealthCheckResponse.ServingStatus", "health.proto"),
            ("grpc.reflection.v1.ErrorResponse", "reflection.proto"),
            ("grpc.reflection.v1alpha.ErrorResponse", "reflection_v1alpha.proto"),
        ] {
            let by_symbol = ask(MessageRequest::FileContainingSymbol(symbol.into()));
            let MessageResponse::FileDescriptorResponse(found) = &by_symbol else { panic!("{symbol}") };
            let described = FileDescriptorProto::decode(&found.file_descriptor_proto[0][..]).unwrap();
            assert_eq!(described.name(), file);
            assert_eq!(by_symbol, ask(MessageRequest::FileByFilename(file.into())));
        }
    }

    #[test]
    fn unknown_names_are_not_found() {
        for question in [
            MessageRequest::FileByFilename("x.proto".into()),
            MessageRequest::FileContainingSymbol("x".into()),
            MessageRequest::FileContainingExtension(Default::default()),
        ] {
            let MessageResponse::ErrorResponse(error) = ask(question) else { panic!("another answer") };
            assert_eq!(error.error_code, i32::from(Code::NotFound));
        }
        let extensions = ask(MessageRequest::AllExtensionNumbersOfType("t".into()));
        assert!(
            matches!(extensions, MessageResponse::AllExtensionNumbersResponse(r) if r.base_type_name == "t")
        );
    }
}
