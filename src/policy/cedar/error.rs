//! Why a question cannot be put to the engine.

use cedar_policy::entities_errors::EntitiesError;
use cedar_policy::{
    ContextCreationError, EntityAttrEvaluationError, ExpressionConstructionError, RequestValidationError,
};

/// Cedar does not accept a part of a question. The request is refused.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// An attribute of the agent or of the resource.
    #[error("an attribute of the request's entities is not accepted: {0}")]
    Attribute(#[from] Box<EntityAttrEvaluationError>),
    /// The agent and the resource.
    #[error("the request's entities are not accepted: {0}")]
    Entities(#[from] Box<EntitiesError>),
    /// A record of the context.
    #[error("the request's circumstances are not accepted: {0}")]
    Record(#[from] Box<ExpressionConstructionError>),
    /// The context.
    #[error("the request's circumstances are not accepted: {0}")]
    Context(#[from] Box<ContextCreationError>),
    /// The request as a whole.
    #[error("the request is not accepted: {0}")]
    Request(#[from] Box<RequestValidationError>),
}

macro_rules! boxed {
    ($($error:ty),*) => {
        $(impl From<$error> for QuestionError {
            fn from(error: $error) -> QuestionError {
                Box::new(error).into()
            }
        })*
    };
}

boxed!(
    EntityAttrEvaluationError,
    EntitiesError,
    ExpressionConstructionError,
    ContextCreationError,
    RequestValidationError
);
