//! From librdkafka's error codes to what the caller must do.

use std::fmt::Display;

use rdkafka::bindings as rk;
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::error::{Error, Kind};

use super::native::owned;

/// One failed call of librdkafka.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub code: Code,
    pub text: String,
    /// Only a new client can go on.
    pub fatal: bool,
    /// The same call may be tried again.
    pub retriable: bool,
    /// The transaction must be aborted, then the client goes on.
    pub requires_abort: bool,
}

impl Failure {
    pub fn of(code: Code, text: String) -> Failure {
        Failure { code, text, fatal: false, retriable: false, requires_abort: false }
    }

    /// With librdkafka's own text of the code.
    pub fn coded(code: Code) -> Failure {
        let shown = code.to_string();
        let text = shown.split_once(" (").map_or(shown.as_str(), |(_, text)| text.trim_end_matches(')'));
        Failure::of(code, text.to_owned())
    }

    /// Takes over what a call returned; null is success.
    pub fn check(error: *mut rk::rd_kafka_error_t) -> Result<(), Failure> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: the error is ours, read and then freed.
        unsafe {
            let failure = Failure {
                code: Code::from(rk::rd_kafka_error_code(error)),
                text: owned(rk::rd_kafka_error_string(error)),
                fatal: rk::rd_kafka_error_is_fatal(error) != 0,
                retriable: rk::rd_kafka_error_is_retriable(error) != 0,
                requires_abort: rk::rd_kafka_error_txn_requires_abort(error) != 0,
            };
            rk::rd_kafka_error_destroy(error);
            Err(failure)
        }
    }

    pub fn check_code(code: rk::rd_kafka_resp_err_t) -> Result<(), Failure> {
        match Code::from(code) {
            Code::NoError => Ok(()),
            code => Err(Failure::coded(code)),
        }
    }

    /// The group went on without this member, or with another assignment: the offsets are not its to commit any more.
    pub fn lost_membership(&self) -> bool {
        matches!(
            self.code,
            Code::IllegalGeneration
                | Code::UnknownMemberId
                | Code::RebalanceInProgress
                | Code::StaleMemberEpoch
                | Code::FencedMemberEpoch
                | Code::AssignmentLost
        )
    }

    pub fn fenced(&self) -> bool {
        matches!(
            self.code,
            Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId | Code::UnknownProducerId
        )
    }

    fn kind(&self) -> Kind {
        match self.code {
            _ if self.fenced() => Kind::Fenced,
            Code::UnknownTopic
            | Code::UnknownPartition
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopicId
            | Code::OffsetOutOfRange
            | Code::AutoOffsetReset
            | Code::NoOffset
            | Code::InvalidTopic
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidReplicaAssignment
            | Code::InvalidConfig
            | Code::PolicyViolation
            | Code::InvalidSessionTimeout
            | Code::InvalidTransactionTimeout
            | Code::InvalidGroupId
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::SecurityDisabled
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::NonEmptyGroup => Kind::Config,
            Code::BrokerTransportFailure
            | Code::BrokerDestroy
            | Code::Resolve
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::MessageTimedOut
            | Code::WaitingForCoordinator
            | Code::WaitCache
            | Code::SSL
            | Code::NodeUpdate
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::ReplicaNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::NotController
            | Code::UnstableOffsetCommit
            | Code::ConcurrentTransactions
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
            | Code::PreferredLeaderNotAvailable
            | Code::EligibleLeadersNotAvailable
            | Code::StaleBrokerEpoch
            | Code::ThrottlingQuotaExceeded
            | Code::KafkaStorageError => Kind::Away,
            _ if self.retriable => Kind::Away,
            _ => Kind::Failed,
        }
    }

    pub fn error(&self, what: impl Display) -> Error {
        self.error_of(self.kind(), what)
    }

    pub fn error_of(&self, kind: Kind, what: impl Display) -> Error {
        Error::new(kind, format!("{what}: {} ({:?})", lower(&self.text), self.code))
    }
}

/// librdkafka's sentences start with a capital, ours do not.
fn lower(text: &str) -> String {
    let mut rest = text.chars();
    match rest.next() {
        Some(first) if !rest.as_str().starts_with(char::is_uppercase) => first.to_lowercase().chain(rest).collect(),
        _ => text.to_owned(),
    }
}
