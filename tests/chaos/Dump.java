// Prints what a topic holds, by Kafka's own client: the oracle that shares nothing with the library under test.
//
//     java -cp 'libs/*' Dump.java BOOTSTRAP TOPIC
//
// One line a committed record: partition, offset, timestamp, key, value, then pairs of header name and value; all bytes in
// base64, "-" for null, divided by tabs. A last line "end" proves that none is missing.

import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public class Dump {
    public static void main(String[] args) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", args[0]);
        settings.put("isolation.level", "read_committed");
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "none");
        settings.put("key.deserializer", ByteArrayDeserializer.class.getName());
        settings.put("value.deserializer", ByteArrayDeserializer.class.getName());
        StringBuilder out = new StringBuilder();
        try (Consumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings)) {
            List<TopicPartition> partitions = new ArrayList<>();
            consumer.partitionsFor(args[1]).forEach(p -> partitions.add(new TopicPartition(p.topic(), p.partition())));
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            while (ends.entrySet().stream().anyMatch(e -> consumer.position(e.getKey()) < e.getValue())) {
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(200))) {
                    if (r.offset() >= ends.get(new TopicPartition(r.topic(), r.partition()))) continue;
                    out.append(r.partition()).append('\t').append(r.offset()).append('\t').append(r.timestamp());
                    out.append('\t').append(text(r.key())).append('\t').append(text(r.value()));
                    for (Header h : r.headers()) {
                        out.append('\t').append(text(h.key().getBytes("UTF-8"))).append('\t').append(text(h.value()));
                    }
                    out.append('\n');
                }
                System.out.print(out);
                out.setLength(0);
            }
        }
        System.out.println("end");
    }

    static String text(byte[] bytes) {
        return bytes == null ? "-" : Base64.getEncoder().encodeToString(bytes);
    }
}
