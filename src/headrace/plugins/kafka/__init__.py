"""Apache Kafka, through confluent-kafka."""

from headrace.hookspecs import Component, hookimpl


@hookimpl
def headrace_components() -> list[Component]:
    """Bring Kafka as a source and as a sink."""
    return [
        Component("source", "kafka", f"{__name__}.source:KafkaSource", "kafka", "reads topics as a consumer group"),
        Component(
            "sink", "kafka", f"{__name__}.sink:KafkaSink", "kafka", "publishes to a topic, exactly once if asked to"
        ),
    ]
